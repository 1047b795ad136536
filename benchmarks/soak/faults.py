"""What was broken when: a call that overlaps that may fail."""

from __future__ import annotations

import math
import time
from collections import Counter

SETTLES = 3.0  # seconds after a fault in which calls may still fail
BEFORE = 0.5  # seconds before one that count as in it: clocks are read a little later than things happen


class Faults:
    """Spans of time, each with its fault."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float, str]] = []  # from when, until when, what

    @property
    def counts(self) -> Counter[str]:
        """How many there were of each."""
        return Counter(what for _, _, what in self._spans)

    def lasts(self, what: str, seconds: float) -> None:
        """A fault begins that is over after so many seconds."""
        began = time.monotonic()
        self._spans.append((began - BEFORE, began + seconds + SETTLES, what))

    def begins(self, what: str) -> float:
        """A fault begins that lasts until `ends`. Returns when that was."""
        began = time.monotonic()
        self._spans.append((began - BEFORE, math.inf, what))
        return began

    def ends(self, *, within: float = 0.0) -> None:
        """What began last is over, or will be within so many seconds."""
        began, _, what = self._spans[-1]
        self._spans[-1] = began, time.monotonic() + within + SETTLES, what

    def excuse(self, began: float, ended: float) -> str:
        """The fault that a call between these times overlaps, or ""."""
        return next((what for start, stop, what in self._spans if began < stop and ended > start), "")
