"""What one client connection may ask of the relay within a while, so that floods end instead of being served."""

from __future__ import annotations

import time

from tocsin.http2 import frames
from tocsin.relay.context import RelayContext

WINDOW_SECONDS = 10.0  # seconds


class FrameRateLimit:
    """Counts a connection's cheap frames. Raises FrameError ENHANCE_YOUR_CALM beyond the limits."""

    __slots__ = ("_context", "_controls", "_resets", "_since")

    def __init__(self, context: RelayContext) -> None:
        self._context = context
        self._since = time.monotonic()
        self._resets = self._controls = 0

    def reset(self) -> None:
        """The client has reset a call under way."""
        self._resets += 1
        if self._resets > self._context.config.limits.resets and self._full():
            self._refuse("resets", "too many calls begun and reset")

    def control(self, cost: int = 1) -> None:
        """SETTINGS, PING, or DATA with nothing in it."""
        self._controls += cost
        if self._controls > self._context.config.limits.controls and self._full():
            self._refuse("controls", "too many control frames")

    def _full(self) -> bool:
        now = time.monotonic()
        if now - self._since < WINDOW_SECONDS:
            return True
        self._since = now
        self._resets = self._controls = 0
        return False

    def _refuse(self, what: str, reason: str) -> None:
        self._context.limited[what] += 1
        raise frames.FrameError(frames.ENHANCE_YOUR_CALM, reason)
