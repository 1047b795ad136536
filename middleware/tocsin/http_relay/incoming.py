"""The requests that a caller sends on its connection, one after the other."""

from __future__ import annotations

from collections.abc import Collection

from tocsin.http_relay.heads import HEAD_END, HeadError, Http1Request, read_request


class CallerRequests:
    """What has come of a caller and is not read yet."""

    def __init__(self) -> None:
        self.received = b""

    def head(self, names: Collection[str], longest: int) -> Http1Request | None:
        """The head of the next request, None until all of it is there. `names` are the fields that are read besides
        those of HTTP. Raises HeadError, with status 431 where it has more than `longest` bytes.
        """
        received = self.received
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
        return head
