"""What has come on a connection and is not read yet: requests of the caller, or responses of the upstream.

A head of the same bytes as the one before it on its connection is that one: it is not read again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tocsin.http_relay.heads import HEAD_END, HeadError, Http1Request, ResponseHead, read_request, read_response

MOST_INTERIM: Final = 100  # responses that say that the one is still to come
LONGEST_KEPT_HEAD: Final = 1 << 11  # bytes of a head that the next may be like


class CallerRequests:
    """What has come of a caller and is not read yet."""

    def __init__(self) -> None:
        self.received = b""
        self._previous: Http1Request | None = None
        self._names: Collection[str] = ()  # by which that was read
        self._longest = 0

    def head(self, names: Collection[str], longest: int) -> Http1Request | None:
        """The head of the next request, None until all of it is there. `names` are the fields that are read besides
        those of HTTP. Raises HeadError, with status 431 where it has more than `longest` bytes.
        """
        received, previous = self.received, self._previous if self._longest == longest else None
        if previous is not None and names is self._names and received.startswith(previous.raw):
            self.received = received[len(previous.raw) :]
            return previous
        if received.startswith(b"\r\n"):  # old clients end a body so
            received = self.received = received[2:]
        end = received.find(HEAD_END)
        if end < 0 and len(received) <= longest:
            if not received[:1].isalpha() and received and received != b"\r":
                raise HeadError(400, "this is no HTTP")
            if b"\n\n" in received:
                raise HeadError(400, "lines end in CRLF")
            return None
        if end < 0 or end + 4 > longest:
            raise HeadError(431, f"the head of a request has more than {longest:,} bytes")
        head = read_request(received[: end + 4], names)
        if head.verb == "CONNECT":
            raise HeadError(400, "the target of a request must be a path")
        self.received = received[end + 4 :]
        self._previous, self._names, self._longest = (head if end < LONGEST_KEPT_HEAD else None), names, longest
        return head


class UpstreamResponses:
    """What has come of an upstream and is not read yet. It is read in parts without being copied for each of them."""

    def __init__(self) -> None:
        self._received = b""
        self._position = 0  # up to which that is read
        self._interim_count = 0  # of the response that is to come
        self._previous: ResponseHead | None = None
        self._verb = ""  # to which that was the response

    @property
    def size(self) -> int:
        """Bytes that are not read yet."""
        return len(self._received) - self._position

    def add(self, data: bytes) -> None:
        """More has come."""
        self._received = self._received[self._position :] + data if self._received else data
        self._position = 0

    def forget(self) -> None:
        """Drop what is not read yet."""
        self._received = b""
        self._position = 0

    def head(self, verb: str, longest: int, *, upgrades: bool) -> ResponseHead | None:
        """The head of the next response to a request by `verb`, None until all of it is there. `upgrades`: the response
        may change the protocol. Raises HeadError, also where the head has more than `longest` bytes.
        """
        received, previous = self._received, self._previous
        if previous is not None and verb == self._verb and received.startswith(previous.raw, self._position):
            head, end = previous, self._position + len(previous.raw) - 4
        else:
            end = received.find(HEAD_END, self._position)
            if end < 0:
                if self.size <= longest:
                    return None
                raise HeadError(502, f"the head of the upstream's response has more than {longest:,} bytes")
            head = read_response(received[self._position : end + 4], verb)
            self._previous, self._verb = (head, verb) if len(head.raw) <= LONGEST_KEPT_HEAD else (None, "")
        if head.status == 101 and not upgrades:
            raise HeadError(502, "the upstream changes to another protocol unasked")
        self._interim_count = self._interim_count + 1 if head.is_interim else 0
        if self._interim_count > MOST_INTERIM:
            raise HeadError(502, f"the upstream sends more than {MOST_INTERIM} interim responses")
        self._position = end + 4
        return head

    def part(self, size: int) -> bytes:
        """The next bytes, at most `size` of them, which stay unread."""
        return self._received[self._position : self._position + size]

    def skip(self, size: int) -> None:
        """So many bytes are read."""
        self._position += size
