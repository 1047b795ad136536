"""The bodies of requests, as Envoy reports them in pieces: messages of gRPC, and documents of HTTP."""

from __future__ import annotations

from tocsin.grpc_wire.deframer import MessageDeframer, whole_message
from tocsin.judgement.call import Call, Fault
from tocsin.memory import MemoryAccount
from tocsin.protocols.messages import decompress
from tocsin.unscored import Unscored


class GrpcRequestBody:
    """Reads messages of at most `limit` bytes out of a gRPC request, for its call. `encoding` is their compression."""

    encoding = ""

    def __init__(self, limit: int, memory: MemoryAccount) -> None:
        self._limit = limit
        self._memory = memory
        self._deframer: MessageDeframer | None = None

    def read(self, call: Call, body: bytes) -> None:
        """Report to the call the messages that a piece of the body completes."""
        limit = self._limit
        if self._deframer is None:
            content = whole_message(body, limit)
            if content is not None:
                call.on_request_message(content)
                return
            self._deframer = MessageDeframer(limit, self._memory)
        for message in self._deframer.feed(body):
            plain = message.content
            try:
                if plain is None:
                    raise Unscored(message.fault or "memory", "a request was not kept")
                if message.compressed:
                    plain = decompress(plain, self.encoding, limit)
            except Unscored as why:
                call.on_request_message(None, (why.reason, str(why)))
            else:
                call.on_request_message(plain)

    def forget(self) -> None:
        """Nobody waits for the rest of the body any more."""
        if self._deframer is not None:
            self._deframer.forget()


class HttpRequestBody:
    """Collects the body of an HTTP request, of at most `limit` bytes, which are charged to `memory`."""

    def __init__(self, limit: int, memory: MemoryAccount) -> None:
        self._limit = limit
        self._memory = memory
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> Fault | None:
        """Keep a piece; the fault where the body is too large, of which nothing is kept then."""
        self._pieces.append(piece)
        self._size += len(piece)
        self._memory.charge(len(piece))
        if self._size <= self._limit:
            return None
        self.forget()
        return "too_large", f"the request has more than {self._limit:,} bytes"

    def take(self) -> bytes:
        """What has come of the body, which is not kept any more."""
        content = b"".join(self._pieces)
        self.forget()
        return content

    def forget(self) -> None:
        """Keep nothing of the body any more."""
        self._memory.release(self._size)
        self._size = 0
        self._pieces.clear()
