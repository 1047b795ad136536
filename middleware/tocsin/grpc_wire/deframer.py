"""gRPC messages out of DATA payloads: length-prefixed, possibly many in a payload or one over many payloads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tocsin.memory import MemoryAccount

PREFIX_SIZE: Final = 5  # a compression flag and a length of four bytes
MOST_TOGETHER: Final = 256  # messages that are handed on together,
MOST_TOGETHER_BYTES: Final = 65_536  # and their bytes
SMALL_PIECE: Final = 4_096  # bytes of a piece of a message below which it is copied together with others


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
    length = payload[1] << 24 | payload[2] << 16 | payload[3] << 8 | payload[4]
    if payload[0] or PREFIX_SIZE + length != len(payload) or length > limit:
        return None
    return payload[PREFIX_SIZE:]


def whole_messages(payload: bytes, at: int, limit: int, sizes: list[int]) -> int:
    """Where the whole messages end that begin at a position, uncompressed and within `limit` bytes each, as many as are
    handed on together. Their sizes, prefixes counted, are appended to `sizes`.
    """
    end, most = len(payload), at + MOST_TOGETHER_BYTES
    while end - at >= PREFIX_SIZE and not payload[at] and len(sizes) < MOST_TOGETHER:
        length = payload[at + 1] << 24 | payload[at + 2] << 16 | payload[at + 3] << 8 | payload[at + 4]
        stop = at + PREFIX_SIZE + length
        if stop > end or length > limit or (stop > most and sizes):
            break
        sizes.append(PREFIX_SIZE + length)
        at = stop
    return at


def framed(content: bytes, *, compressed: bool = False) -> bytes:
    """A message as it goes on the wire."""
    return (b"\1" if compressed else b"\0") + len(content).to_bytes(4, "big") + content


class MessageDeframer:
    """Puts one direction of a stream together again.

    A message over `limit` bytes, or one that `memory` has no room for, is skipped: it comes out without content
    and with a fault, `too_large` or `memory`. An assembler that `keeps` what it reads stops there instead, and `rest`
    is what it has of that message and of what follows. Where `reads` is false nobody wants to know what is in messages:
    those that do not come in one piece are not kept, and come out empty.
    """

    __slots__ = (
        "_head", "_kept_size", "_limit", "_memory", "_pieces", "_skip", "_skipped", "_small", "_wanted", "keeps",
        "reads", "rest",
    )  # fmt: skip

    def __init__(self, limit: int, memory: MemoryAccount, *, keeps: bool = False, reads: bool = True) -> None:
        self._limit = limit
        self._memory = memory
        self.keeps = keeps
        self.reads = reads
        self.rest = b""
        self._head = b""  # of an unfinished message its prefix, as far as it has come,
        self._pieces: list[bytes | memoryview] = []  # its content in pieces as they came,
        self._small = bytearray()  # what follows those: a list of many small ones would take far more than they hold,
        self._kept_size = 0  # and the bytes of both;
        self._wanted = 0  # bytes that it still needs, where it is kept
        self._skip = 0
        self._skipped: Message | None = None

    @property
    def missing(self) -> int:
        """How many bytes follow until more is known of an unfinished message: its length, or its end. 0 between
        messages.
        """
        if self._skip:
            return self._skip
        head_size = len(self._head)
        if head_size < PREFIX_SIZE:
            return PREFIX_SIZE - head_size if head_size else 0
        return int.from_bytes(self._head[1:], "big") - self._kept_size

    def take_part(self, data: bytes, start: int, stop: int, *, keeps: bool) -> bool:
        """Take what is at a place of `data`, in the midst of an unfinished message, without a copy. False where it has
        to be fed, as it has where it would be kept and not `keeps`: all of `data` is kept by that. Quicker than `feed`.
        """
        size = stop - start
        if size >= self._wanted or size < SMALL_PIECE or not keeps:
            if self._skip <= size:
                return False
            self._skip -= size
            return True
        memory = self._memory
        if memory.charge(size) and memory.lacks_room:
            memory.release(size)
            return False
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small = bytearray()
        self._pieces.append(data if size == len(data) else memoryview(data)[start:stop])
        self._kept_size += size
        self._wanted -= size
        return True

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
            if not self._head and end - at >= PREFIX_SIZE:  # whole messages need not be copied together
                length = int.from_bytes(payload[at + 1 : at + PREFIX_SIZE], "big")
                if PREFIX_SIZE + length <= end - at and length <= self._limit:
                    start, at = at, at + PREFIX_SIZE + length
                    yield Message(payload[start] != 0, payload[start + PREFIX_SIZE : at])
                    continue
            if len(self._head) < PREFIX_SIZE:
                piece = payload[at : at + PREFIX_SIZE - len(self._head)]
                self._head += piece
                self._memory.charge(len(piece))
                at += len(piece)
                if len(self._head) < PREFIX_SIZE:
                    return
            compressed = self._head[0] != 0
            length = int.from_bytes(self._head[1:], "big")
            missing = length - self._kept_size
            fault = "too_large" if length > self._limit else None
            if fault is None and not self.reads and missing > end - at:
                self._pass_over(missing, Message(False, b""))
                continue
            if fault is None and missing > end - at and self._memory.lacks_room:
                fault = "memory"
            if fault is not None:
                if self.keeps:
                    self.rest = self.unfinished() + payload[at:]
                    yield Message(compressed, None, fault)
                    return
                self._pass_over(missing, Message(compressed, None, fault))
                continue
            piece = payload[at : at + missing]
            at += len(piece)
            if len(piece) < missing:
                self._keep(piece)
                self._wanted = missing - len(piece)
                return
            content = piece if not self._kept_size else b"".join((*self._pieces, self._small, piece))
            self.forget()
            yield Message(compressed, content)

    def unfinished(self) -> bytes:
        """What was fed and belongs to no complete message; it is given up here."""
        unfinished = b"".join((self._head, *self._pieces, self._small))
        self.forget()
        return unfinished

    def _pass_over(self, missing: int, message: Message) -> None:
        """A message is not kept, of which so many bytes are still to come: it comes out as this."""
        self.forget()
        self._skip, self._skipped = missing, message

    def _keep(self, piece: bytes | memoryview) -> None:
        size = len(piece)
        if size < SMALL_PIECE:
            self._small += piece
        else:
            if self._small:
                self._pieces.append(bytes(self._small))
                self._small = bytearray()
            self._pieces.append(piece)
        self._kept_size += size
        self._memory.charge(size)

    def forget(self) -> None:
        """Give back what is kept of an unfinished message."""
        if self._head:
            self._memory.release(len(self._head) + self._kept_size)
            self._head, self._kept_size, self._wanted = b"", 0, 0
            if self._pieces:
                self._pieces = []
            if self._small:
                self._small = bytearray()
