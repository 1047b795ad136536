"""The heads of requests and responses of HTTP/1.1 (RFC 9112), read as strictly as the strictest server reads them.

What one server reads in one way and another in another way would let a caller hide a request from the relay, so it is
refused: line ends other than CRLF, folded lines, space before a colon, several lengths, a length beside chunks, other
encodings of transfer than `chunked`, fields whose names are written with `_` in place of `-`, targets that are no path.
What is accepted may go on as the bytes that came.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

Fields = list[tuple[str, str]]

CHUNKED: Final = -1  # in place of a body's length
UNTIL_CLOSE: Final = -2
HEAD_END: Final = b"\r\n\r\n"
MOST_DIGITS: Final = 18  # of a length

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_FIELD_LINE: Final = _TOKEN + rb":[^\x00-\x08\x0a-\x1f\x7f]*+\r\n"
_FIELD_LINES: Final = rb"((?:" + _FIELD_LINE + rb")*+)\r\n"
_REQUEST: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21\x22\x24-\x7e]++) HTTP/1\.([01])\r\n" + _FIELD_LINES)
_RESPONSE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*+)?\r\n" + _FIELD_LINES)
_TRAILERS: Final = re.compile(_FIELD_LINES)
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") [^ ]+ (HTTP/[0-9.]+)")
_ONCE: Final = frozenset({"content-length", "transfer-encoding", "host", "expect", "content-type", "content-encoding"})
_FRAMING: Final = frozenset({*_ONCE, "connection", "upgrade", "te", "trailer", "keep-alive", "content-range"})
MOST_KEPT: Final = 1_024  # lines whose reading is kept, as most come again,
LONGEST_KEPT: Final = 64  # and characters of such a one
_SECRETS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "api-key", "x-api-key"})
_readings: Final[dict[str, tuple[str, str]]] = {}
_NO_NAMES: Final[Collection[str]] = frozenset()
_NO_OPTIONS: Final[frozenset[str]] = frozenset()
_USUAL_OPTIONS: Final = {value: frozenset([value]) for value in ("keep-alive", "close")}


class HeadError(Exception):
    """A head that is refused, with the status that tells its sender so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Head:
    """What both kinds of head say. `raw` are its bytes, `fields` are named in lower case, `length` is that of the body,
    or CHUNKED or UNTIL_CLOSE. `keeps_alive`: its sender keeps the connection open; `options` are those of `Connection`.
    """

    def __init__(self, raw: bytes, minor: int, fields: Fields) -> None:
        self.raw = raw
        self.minor = minor
        self.fields = fields
        self.length = 0
        self.options = _NO_OPTIONS
        self.keeps_alive = minor == 1

    def value(self, name: str) -> str:
        """The value of a field, empty where there is none; of several, the last."""
        for field, value in reversed(self.fields):
            if field == name:
                return value
        return ""

    def changed(self, removing: Collection[str] = _NO_NAMES, adding: Iterable[tuple[str, str]] = ()) -> bytes:
        """The head without the fields of some names, in lower case, and with others at its end."""
        if not removing:
            return self.raw[:-2] + lines_of(adding) + b"\r\n"
        lines = self.raw[:-2].split(b"\r\n")  # the last is empty
        lines[1:-1] = [line for line, (name, _) in zip(lines[1:-1], self.fields, strict=True) if name not in removing]
        lines[-1] = lines_of(adding)
        return b"\r\n".join(lines) + b"\r\n"

    def _read_connection(self, value: str) -> None:
        options = _USUAL_OPTIONS.get(value)
        if options is None:
            options = frozenset([option.strip(" \t").lower() for option in value.split(",")])
        self.options = self.options | options if self.options else options
        if "close" in self.options:
            self.keeps_alive = False
        elif "keep-alive" in self.options:
            self.keeps_alive = True


class Http1Request(Head):
    """A request's. `target` is its path with its query, `path` without; `expects_continue`: the caller waits for a
    word before it sends the body; `upgrade` names what it would change to; `takes_trailers`: it reads trailers.
    """

    def __init__(self, raw: bytes, minor: int, fields: Fields, verb: str, target: str) -> None:
        super().__init__(raw, minor, fields)
        self.verb = verb
        self.target = target
        self.path = target.partition("?")[0]
        self.expects_continue = False
        self.upgrade = ""
        self.takes_trailers = False


class ResponseHead(Head):
    """A response's."""

    def __init__(self, raw: bytes, minor: int, fields: Fields, status: int) -> None:
        super().__init__(raw, minor, fields)
        self.status = status

    @property
    def is_interim(self) -> bool:
        """Whether another head follows."""
        return self.status < 200


def read_request(raw: bytes, names: Collection[str] = _NO_NAMES) -> Http1Request:
    """A request's head, with the empty line that ends it. `names` are fields that somebody behind this reads, besides
    those of HTTP itself. Raises HeadError.
    """
    match = _REQUEST.fullmatch(raw)
    if match is None:
        raise _explained(raw)
    verb, target, minor, lines = match.groups()
    head = Http1Request(raw, minor[0] - 48, _fields(lines), verb.decode(), target.decode())
    if head.target[0] != "/" and (head.target != "*" or head.verb != "OPTIONS"):
        raise HeadError(400, "the target of a request must be a path")
    has_host = has_length = False
    counted: set[str] = set()
    for name, value in head.fields:
        if name in _FRAMING:
            if name in _ONCE:
                if name in counted:
                    raise HeadError(400, f"a request has one '{name}'")
                counted.add(name)
            if name == "content-length":
                has_length = True
                head.length = _length(value)
            elif name == "transfer-encoding":
                _check_chunked(head, value)
            elif name == "host":
                has_host = True
            elif name == "connection":
                head._read_connection(value)
            elif name == "expect":
                head.expects_continue = head.minor == 1 and value.lower() == "100-continue"
            elif name == "upgrade":
                head.upgrade = value
            elif name == "te":
                head.takes_trailers = head.minor == 1 and "trailers" in value.lower().replace(" ", "").split(",")
        elif "_" in name and name not in names:
            alike = name.replace("_", "-")
            if alike in _FRAMING or alike in names:
                raise HeadError(400, f"'{name}' is '{alike}' to some servers")
    if has_length and "transfer-encoding" in counted:
        raise HeadError(400, "a request has a length, or chunks")
    if not has_host and head.minor == 1:
        raise HeadError(400, "a request names its host")
    if not head.options.isdisjoint(_ONCE) or not head.options.isdisjoint(names):
        raise HeadError(400, "'connection' names a field that is for the server")
    return head


def read_response(raw: bytes, verb: str) -> ResponseHead:
    """The head of a response to a request with this verb. Raises HeadError."""
    match = _RESPONSE.fullmatch(raw)
    if match is None:
        raise HeadError(502, "the upstream's response is not written as HTTP/1.1 is")
    minor, status, lines = match.groups()
    head = ResponseHead(raw, minor[0] - 48, _fields(lines), int(status))
    lengths, has_chunks = 0, False
    for name, value in head.fields:
        if name not in _FRAMING:
            continue
        if name == "content-length":
            lengths += 1
            head.length = _length(value)
        elif name == "transfer-encoding":
            if has_chunks:
                raise HeadError(502, "the upstream's response has several encodings of transfer")
            _check_chunked(head, value)
            has_chunks = True
        elif name == "connection":
            head._read_connection(value)
    if lengths > 1 or (lengths and has_chunks):
        raise HeadError(502, "the upstream's response has several lengths")
    if verb == "HEAD" or head.is_interim or head.status in (204, 304):
        head.length = 0
    elif has_chunks:
        head.length = CHUNKED
    elif not lengths:
        head.length = UNTIL_CLOSE
        head.keeps_alive = False
    return head


def read_trailers(raw: bytes) -> Fields | None:
    """The fields behind a body, with the empty line that ends them; None where they are none."""
    match = _TRAILERS.fullmatch(raw)
    if match is None:
        return None
    fields = _fields(match[1])
    return None if any(name.replace("_", "-") in _FRAMING for name, _ in fields) else fields


def lines_of(fields: Iterable[tuple[str, str]]) -> bytes:
    """Fields as they are written."""
    return "".join([f"{name}: {value}\r\n" for name, value in fields]).encode("latin-1")


def _fields(lines: bytes) -> Fields:
    readings = _readings
    fields = []
    for line in lines.decode("latin-1").split("\r\n")[:-1]:
        field = readings.get(line)
        fields.append(_field(line) if field is None else field)
    return fields


def _field(line: str) -> tuple[str, str]:
    """Read a line, and keep what it says where others may repeat it."""
    name, _, value = line.partition(":")
    field = name.lower(), value.strip(" \t")
    if len(line) <= LONGEST_KEPT and field[0] not in _SECRETS:
        if len(_readings) >= MOST_KEPT:
            _readings.clear()
        _readings[line] = field
    return field


def _length(value: str) -> int:
    if not (value.isdigit() and value.isascii()) or len(value) > MOST_DIGITS:
        raise HeadError(400, "a length is a number of bytes")
    return int(value)


def _check_chunked(head: Head, value: str) -> None:
    if value.lower() != "chunked" or head.minor == 0:
        raise HeadError(400, "an encoding of transfer other than 'chunked'")
    head.length = CHUNKED


def _explained(raw: bytes) -> HeadError:
    """What is wrong with a request's head."""
    line, _, rest = raw.partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        return HeadError(400, "the first line is none of HTTP/1.1")
    if match[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        return HeadError(505, "the version is neither HTTP/1.1 nor HTTP/1.0")
    if b"\n" in rest.replace(b"\r\n", b"") or b"\r" in rest.replace(b"\r\n", b""):
        return HeadError(400, "lines end in CRLF")
    return HeadError(400, "a header field is not written as HTTP/1.1 says, or the target is not")
