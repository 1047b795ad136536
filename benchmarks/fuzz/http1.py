"""HTTP/1.1 as the relay reads it, beside a strict parser of others: what it accepts, they read in the same way.

The relay may refuse more than they do. What it takes for a message, they must take for the same message: verb, target,
fields, content and where it ends, or else a caller could hide a request, and a server a response.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import h11

from benchmarks.fuzz.outcomes import Failure, Refused
from benchmarks.harness.by_hand import Pipe, unconnected
from benchmarks.harness.chat import CHAT, STRANGE, USUAL, completion, config, stream
from benchmarks.harness.parts import inline_guard
from tocsin.http_relay.bodies import BodyError, body_of
from tocsin.http_relay.connection import HttpConnection
from tocsin.http_relay.context import HttpContext
from tocsin.http_relay.heads import HEAD_END, Head, HeadError, read_request, read_response
from tocsin.relay.server import Relay
from tocsin.verdict import METADATA_KEY

LONGEST = 1 << 16
MEMORY = 1 << 22
TURNS = 8  # of the loop, in which what has come is judged
REQUEST = b'{"model":"m","messages":[{"role":"user","content":"safe"}]}'


def _chunked(*parts: bytes, trailers: bytes = b"") -> bytes:
    return b"".join([b"%x\r\n%b\r\n" % (len(part), part) for part in parts]) + b"0\r\n" + trailers + b"\r\n"


def _request(body: bytes, *fields: bytes, verb: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    head = verb + b" " + CHAT.encode() + b" HTTP/" + version + b"\r\nhost: model\r\n"
    return head + b"".join([field + b"\r\n" for field in fields]) + b"\r\n" + body


def _response(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join([field + b"\r\n" for field in fields]) + b"\r\n" + body


def requests() -> list[bytes]:
    """Requests of callers."""
    length = b"content-length: %d" % len(REQUEST)
    return [
        _request(REQUEST, length, b"content-type: application/json"),
        _request(_chunked(REQUEST[:9], REQUEST[9:], trailers=b"x-end: 1\r\n"), b"transfer-encoding: chunked"),
        _request(b"", b"accept: */*", b"te: trailers", verb=b"GET"),
        _request(REQUEST, length, b"expect: 100-continue", b"connection: close"),
        _request(REQUEST, length, b"connection: keep-alive", version=b"1.0"),
        _request(REQUEST, length) + _request(REQUEST, length),
    ]


def responses() -> list[bytes]:
    """Responses of servers: an ordinary document, a strange one, and a stream."""
    json_type, events_type = b"content-type: application/json", b"content-type: text/event-stream"
    usual, strange, chunks = completion([USUAL] * 4), completion([STRANGE] * 4), b"transfer-encoding: chunked"
    return [
        _response(usual, json_type, b"content-length: %d" % len(usual)),
        _response(strange, json_type, b"content-length: %d" % len(strange)),
        _response(_chunked(usual[:40], usual[40:], trailers=b"x-end: 1\r\n"), json_type, chunks),
        _response(_chunked(*stream([USUAL, STRANGE] * 2)), events_type, chunks),
        _response(b"".join(stream([USUAL] * 3)), events_type, b"connection: close"),
        _response(b"", b"content-length: 0", status=b"204 No Content"),
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + _response(usual, b"content-length: %d" % len(usual)),
    ]


class Message(NamedTuple):
    """A message: what its head says, its content so far, its trailers, what comes behind, and whether it has ended."""

    first: tuple[str, ...]
    fields: list[tuple[str, str]]
    content: bytes
    trailers: list[tuple[str, str]]
    rest: bytes
    is_done: bool


def read_request_as_peers_do(case: bytes) -> None:
    """A request that the relay takes is the same to a strict parser."""
    _compare(_ours(case, ""), case, h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 21))


def read_response_as_peers_do(case: bytes) -> None:
    """So is a response, to a POST."""
    theirs = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 21)
    theirs.send(h11.Request(method="POST", target="/", headers=[("host", "model"), ("content-length", "0")]))
    theirs.send(h11.EndOfMessage())
    _compare(_ours(case, "POST"), case, theirs)


def _ours(case: bytes, verb: str) -> Message:
    """What the relay makes of a case that is fed in pieces. `verb` is empty for a request."""
    end = case.find(HEAD_END) + len(HEAD_END)
    if end < len(HEAD_END):
        raise Refused
    first: tuple[str, ...]
    head: Head
    try:
        if verb:
            response = read_response(case[:end], verb)
            if response.status == 101:
                raise Refused
            head, first = response, (str(response.status),)
        else:
            request = read_request(case[:end])
            head, first = request, (request.verb, request.target)
    except HeadError:
        raise Refused from None
    body, rest, contents = body_of(head.length, LONGEST), case[end:], list[bytes]()
    step, raws = 1 + len(rest) // 3, list[bytes]()
    try:
        while rest and not body.is_done:
            raw, content, behind = body.feed(rest[:step])
            raws.append(raw)
            contents.append(content)
            rest = behind + rest[step:]
    except BodyError:
        raise Refused from None
    content = b"".join(contents)
    fields = [(name, "chunked" if name == "transfer-encoding" else value) for name, value in head.fields]
    return Message(first, fields, content, list(body.trailers), rest, body.is_done)


def _compare(ours: Message, case: bytes, theirs: h11.Connection) -> None:
    try:
        message = _theirs(case, theirs)
    except h11.RemoteProtocolError as error:
        if theirs.their_state is h11.ERROR and not ours.is_done and _reads_head(case, theirs):
            raise Refused from None  # the relay may still refuse it, once all of it is there
        raise Failure(f"accepted what a strict parser refuses: {error}") from None
    if ours != message:
        raise Failure(f"read {ours} where a strict parser reads {message}"[:600])


def _reads_head(case: bytes, parser: h11.Connection) -> bool:
    """Whether a parser of this kind takes the head alone."""
    again = h11.Connection(parser.our_role, max_incomplete_event_size=1 << 21)
    if parser.our_role is h11.CLIENT:
        again.send(h11.Request(method="POST", target="/", headers=[("host", "model"), ("content-length", "0")]))
        again.send(h11.EndOfMessage())
    try:
        return bool(_theirs(case[: case.find(HEAD_END) + len(HEAD_END)], again).first)
    except h11.RemoteProtocolError:
        return False


def _theirs(case: bytes, parser: h11.Connection) -> Message:
    parser.receive_data(case)
    first: tuple[str, ...] = ()
    fields: list[tuple[str, str]] = []
    trailers: list[tuple[str, str]] = []
    parts: list[bytes] = []
    is_done = False
    while not is_done:
        event = parser.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            break  # to this parser no bytes at all are the end of a connection, again and again
        if isinstance(event, h11.Request):
            first = event.method.decode(), event.target.decode()
        if isinstance(event, (h11.Response, h11.InformationalResponse)):
            first = (str(event.status_code),)
        if isinstance(event, (h11.Request, h11.Response, h11.InformationalResponse)):
            fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
            fields = [(name, "chunked" if name == "transfer-encoding" else value) for name, value in fields]
            is_done = isinstance(event, h11.InformationalResponse)
        elif isinstance(event, h11.Data):
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            trailers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
            is_done = True
    rest = parser.trailing_data[0] if is_done else b""
    return Message(first, fields, b"".join(parts), trailers, rest, is_done)


class HttpRelayed:
    """A connection of the relay that speaks HTTP/1.1, between two pipes; the case is what one of the peers says."""

    def __init__(self, bundle: Path, mode: str, *, fail: str = "open") -> None:
        more = {"on_alarm": {"warning": "block"}} if mode == "enforce" else {}
        configured = config(bundle, mode, fail=fail, **more)
        self._config = configured.model_copy(update={"max_memory": MEMORY, "max_message": 1 << 15})
        self._guard = inline_guard(self._config)
        self._loop = asyncio.new_event_loop()
        self._closes = fail == "closed"

    def understood(self) -> None:
        """Check that unmutated seeds are judged."""
        if b"tocsin-verdict" not in self._loop.run_until_complete(self._run(requests()[0], responses()[0])):
            raise SystemExit("a seed is not judged: the fuzzer would feed nothing but noise")

    def caller(self, case: bytes) -> None:
        """The case is what the caller sends."""
        self._loop.run_until_complete(self._run(case, responses()[len(case) % 5]))

    def server(self, case: bytes) -> None:
        """The case is what the model server sends."""
        written = self._loop.run_until_complete(self._run(requests()[0], case))
        if self._closes:
            for part in written.split(METADATA_KEY.encode())[1:]:
                if b'"unscored"' in part[:400] and b'"action":"block"' not in part[:400]:
                    raise Failure("a response went out unscored although it must not")

    async def _run(self, caller: bytes, server: bytes) -> bytes:
        relay = Relay(self._config, self._guard)
        relay.context.start()
        connection = HttpConnection(HttpContext(relay.context), unconnected(relay))
        to_caller, to_server = Pipe(), Pipe()
        connection.downstream.connection_made(to_caller)  # type: ignore[arg-type]
        for at in range(0, len(caller), 1 + len(caller) // 2):
            if not to_caller.closed:
                connection.downstream.data_received(caller[at : at + 1 + len(caller) // 2])
        side = connection.upstream.side
        if side is not None:
            side.connection_made(to_server)  # type: ignore[arg-type]
            for at in range(0, len(server), 1 + len(server) // 3):
                if not to_server.closed:
                    side.data_received(server[at : at + 1 + len(server) // 3])
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            side.connection_lost(None)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            self.check_sent(bytes(to_server.written))
        connection.downstream.connection_lost(None)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if relay.context.memory.remaining != MEMORY:
            raise Failure(f"{MEMORY - relay.context.memory.remaining} bytes were not given back")
        return bytes(to_caller.written)

    @staticmethod
    def check_sent(sent: bytes) -> None:
        """What the server gets is a request to a strict parser, or the beginning of one."""
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 21)
        try:
            _theirs(sent, parser)
        except h11.RemoteProtocolError as error:
            raise Failure(f"the server was sent what is no request: {error}") from None
