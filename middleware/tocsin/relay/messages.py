"""gRPC messages out of DATA payloads: length-prefixed, possibly many in a payload or one over many payloads."""

from __future__ import annotations

from collections.abc import Iterator

PREFIX = 5  # a compression flag and a length of four bytes


class Memory:
    """A bound on the bytes that all streams together may keep: unfinished messages, and what is held or waits."""

    __slots__ = ("left",)

    def __init__(self, limit: int) -> None:
        self.left = limit


class Message:
    """One message as it was on the wire: its bytes, or None with the reason why they were not kept."""

    __slots__ = ("compressed", "content", "fault")

    def __init__(self, compressed: bool, content: bytes | None, fault: str | None = None) -> None:
        self.compressed = compressed
        self.content = content
        self.fault = fault


def whole_message(payload: bytes, limit: int) -> bytes | None:
    """The message, when a payload is one whole message, uncompressed and within `limit` bytes: the usual case."""
    if not payload or payload[0]:
        return None
    length = int.from_bytes(payload[1:PREFIX], "big")
    return payload[PREFIX:] if PREFIX + length == len(payload) and length <= limit else None


def framed(content: bytes, *, compressed: bool = False) -> bytes:
    """A message as it goes on the wire."""
    return (b"\1" if compressed else b"\0") + len(content).to_bytes(4, "big") + content


class Assembler:
    """Puts one direction of a stream together again.

    A message over `limit` bytes, or one that `memory` has no room for, is skipped: it comes out without content
    and with a fault, `too_large` or `memory`. An assembler that `keeps` what it reads stops there instead, and `rest`
    is what it has of that message and of what follows.
    """

    __slots__ = ("_kept", "_limit", "_memory", "_parts", "_skip", "_skipped", "keeps", "rest")

    def __init__(self, limit: int, memory: Memory, *, keeps: bool = False) -> None:
        self._limit = limit
        self._memory = memory
        self.keeps = keeps
        self.rest = b""
        self._parts: list[bytes] = []
        self._kept = 0
        self._skip = 0
        self._skipped: Message | None = None

    def feed(self, payload: bytes) -> Iterator[Message]:
        """The messages that `payload` completes."""
        while payload:
            if self._skip:
                used = min(self._skip, len(payload))
                self._skip -= used
                payload = payload[used:]
                if not self._skip and self._skipped is not None:
                    message, self._skipped = self._skipped, None
                    yield message
                continue
            self._keep(payload)
            payload = b""
            if self._kept < PREFIX:
                return
            head = self._parts[0]
            if len(head) < PREFIX:
                head = self._join()
                self._parts = [head]
            length = int.from_bytes(head[1:PREFIX], "big")
            if self._kept < PREFIX + length:
                fault = "too_large" if length > self._limit else "memory" if self._memory.left < 0 else None
                if fault is None:
                    return
                if self.keeps:
                    yield self._stop(fault)
                    return
                self._skip = PREFIX + length - self._kept
                self._skipped = Message(head[0] != 0, None, fault)
                self.forget()
                return
            if length > self._limit and self.keeps:
                yield self._stop("too_large")
                return
            whole = self._join()
            self.forget()
            payload = whole[PREFIX + length :]
            if length > self._limit:
                yield Message(whole[0] != 0, None, "too_large")
            else:
                yield Message(whole[0] != 0, whole[PREFIX : PREFIX + length])

    def left(self) -> bytes:
        """What was fed and belongs to no complete message; it is given up here."""
        found = self._join() if self._parts else b""
        self.forget()
        return found

    def _stop(self, fault: str) -> Message:
        self.rest = self._join()
        self.forget()
        return Message(self.rest[0] != 0, None, fault)

    def _keep(self, payload: bytes) -> None:
        self._parts.append(payload)
        self._kept += len(payload)
        self._memory.left -= len(payload)

    def _join(self) -> bytes:
        return b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]

    def forget(self) -> None:
        """Give back what is kept of an unfinished message."""
        self._memory.left += self._kept
        self._parts = []
        self._kept = 0
