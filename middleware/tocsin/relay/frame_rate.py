"""How many cheap frames one connection may send within a while, so that a flood ends instead of being served."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from tocsin.configuration.listener import Limits
from tocsin.http2 import frames

WINDOW_SECONDS: Final = 10.0  # seconds


class FrameLimits:
    """How many cheap frames each connection of a port may send, as configured now. `limited` counts refusals."""

    __slots__ = ("controls", "limited", "resets")

    def __init__(self, limited: Counter[str]) -> None:
        self.limited = limited
        self.controls = self.resets = 0

    def follow(self, limits: Limits) -> None:
        """Allow what these limits say from here on."""
        self.controls, self.resets = limits.controls, limits.resets


class FrameRateLimit:
    """Counts a connection's cheap frames. Raises FrameError ENHANCE_YOUR_CALM beyond the limits."""

    __slots__ = ("_controls", "_limits", "_resets", "_since")

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._since = time.monotonic()
        self._resets = self._controls = 0

    def reset(self) -> None:
        """The client has reset a call under way."""
        self._resets += 1
        if self._resets > self._limits.resets and self._full():
            self._refuse("resets", "too many calls begun and reset")

    def control(self, cost: int = 1) -> None:
        """SETTINGS, PING, or DATA with nothing in it."""
        self._controls += cost
        if self._controls > self._limits.controls and self._full():
            self._refuse("controls", "too many control frames")

    def _full(self) -> bool:
        now = time.monotonic()
        if now - self._since < WINDOW_SECONDS:
            return True
        self._since = now
        self._resets = self._controls = 0
        return False

    def _refuse(self, what: str, reason: str) -> None:
        self._limits.limited[what] += 1
        raise frames.FrameError(frames.ENHANCE_YOUR_CALM, reason)
