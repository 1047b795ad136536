"""GOAWAY towards one client (RFC 9113, section 6.8), whether the relay or the upstream says it."""

from __future__ import annotations

from tocsin.http2 import frames


class GoawayLimit:
    """The last stream that a client has been told of: no later GOAWAY may name a later one."""

    __slots__ = ("_last_stream",)

    def __init__(self) -> None:
        self._last_stream = frames.LAST_STREAM

    def frame(self, last_stream: int, code: int, message: str) -> bytes:
        """A GOAWAY of the relay's own: streams up to `last_stream` go on, unless fewer were named before."""
        self._last_stream = min(self._last_stream, last_stream)
        return frames.goaway(self._last_stream, code, message)

    def limit(self, frame: bytes) -> bytes | None:
        """What the client gets in place of the upstream's GOAWAY; None for the same bytes."""
        start = frames.HEADER_SIZE
        last_stream = int.from_bytes(frame[start : start + 4], "big") & frames.LAST_STREAM
        if last_stream <= self._last_stream:
            self._last_stream = last_stream
            return None
        return frame[:start] + self._last_stream.to_bytes(4, "big") + frame[start + 4 :]
