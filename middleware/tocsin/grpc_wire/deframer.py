"""gRPC messages out of DATA payloads: length-prefixed, possibly many in a payload or one over many payloads."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from tocsin.memory import MemoryAccount

PREFIX_SIZE = 5  # a compression flag and a length of four bytes
_PREFIX = Struct(">BL")


class Message:
    """One message as it was on the wire: its bytes, or None with the reason why they were not kept."""

    __slots__ = ("compressed", "content", "fault")

    def __init__(self, compressed: bool, content: bytes | None, fault: str | None = None) -> None:
        self.compressed = compressed
        self.content = content
        self.fault = fault


def whole_message(payload: bytes, limit: int) -> bytes | None:
    """The message, when a payload is one whole message, uncompressed and within `limit` bytes: the usual case."""
    if len(payload) < PREFIX_SIZE:
        return None
    compressed, length = _PREFIX.unpack_from(payload)
    if compressed or PREFIX_SIZE + length != len(payload) or length > limit:
        return None
    return payload[PREFIX_SIZE:]


def framed(content: bytes, *, compressed: bool = False) -> bytes:
    """A message as it goes on the wire."""
    return (b"\1" if compressed else b"\0") + len(content).to_bytes(4, "big") + content


class MessageDeframer:
    """Puts one direction of a stream together again.

    A message over `limit` bytes, or one that `memory` has no room for, is skipped: it comes out without content
    and with a fault, `too_large` or `memory`. An assembler that `keeps` what it reads stops there instead, and `rest`
    is what it has of that message and of what follows.
    """

    __slots__ = ("_buffer", "_limit", "_memory", "_skip", "_skipped", "keeps", "rest")

    def __init__(self, limit: int, memory: MemoryAccount, *, keeps: bool = False) -> None:
        self._limit = limit
        self._memory = memory
        self.keeps = keeps
        self.rest = b""
        self._buffer = bytearray()  # of one message; a list of many small pieces would take far more than they hold
        self._skip = 0
        self._skipped: Message | None = None

    def feed(self, payload: bytes) -> Iterator[Message]:
        """The messages that `payload` completes."""
        at, end = 0, len(payload)
        while at < end:
            if self._skip:
                used = min(self._skip, end - at)
                self._skip -= used
                at += used
                if not self._skip and self._skipped is not None:
                    message, self._skipped = self._skipped, None
                    yield message
                continue
            buffer = self._buffer
            if not buffer and end - at >= PREFIX_SIZE:  # whole messages need not be copied together
                length = int.from_bytes(payload[at + 1 : at + PREFIX_SIZE], "big")
                if PREFIX_SIZE + length <= end - at and length <= self._limit:
                    start, at = at, at + PREFIX_SIZE + length
                    yield Message(payload[start] != 0, payload[start + PREFIX_SIZE : at])
                    continue
            missing = PREFIX_SIZE - len(buffer)
            if missing > 0:
                at += self._keep(payload[at : at + missing])
                if len(buffer) < PREFIX_SIZE:
                    return
            compressed = buffer[0] != 0
            length = int.from_bytes(buffer[1:PREFIX_SIZE], "big")
            fault = "too_large" if length > self._limit else None
            missing = PREFIX_SIZE + length - len(buffer)
            if fault is None and missing > end - at and self._memory.lacks_room:
                fault = "memory"
            if fault is not None:
                if self.keeps:
                    self.rest = bytes(buffer) + payload[at:]
                    self.forget()
                    yield Message(compressed, None, fault)
                    return
                self.forget()
                self._skip, self._skipped = missing, Message(compressed, None, fault)
                continue
            at += self._keep(payload[at : at + missing])
            if len(buffer) == PREFIX_SIZE + length:
                content = bytes(memoryview(buffer)[PREFIX_SIZE:])
                self.forget()
                yield Message(compressed, content)

    def unfinished(self) -> bytes:
        """What was fed and belongs to no complete message; it is given up here."""
        unfinished = bytes(self._buffer)
        self.forget()
        return unfinished

    def _keep(self, payload: bytes) -> int:
        self._buffer += payload
        self._memory.charge(len(payload))
        return len(payload)

    def forget(self) -> None:
        """Give back what is kept of an unfinished message."""
        if self._buffer:
            self._memory.release(len(self._buffer))
            self._buffer = bytearray()
