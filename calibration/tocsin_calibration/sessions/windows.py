"""Windows: a session's last few scores as one.

A single odd step says little, several in a row say much; so what is compared with a threshold is the sum or mean of
the last w scores (FIPER). At the start of a session, the sum counts steps that have not been as 0, and the mean is of
those that have.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]
How = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True)
class Window:
    """The sum or mean of the last `width` scores. Raises CalibrationError unless width is at least 1."""

    width: int = 1
    how: How = "mean"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise CalibrationError(f"a window holds at least one score, not {self.width}")
        if self.how not in get_args(How):
            raise CalibrationError(f"a window is a sum or a mean, not '{self.how}'")

    def rolling(self, scores: ArrayLike) -> Float64:
        """The windowed scores (T,) of one session's scores (T,), each of what had come by then."""
        values = np.asarray(scores, np.float64)
        padded = np.concatenate([np.zeros(self.width - 1), values])
        total = np.zeros(len(values))
        for age in range(self.width):  # oldest first, as `Running` adds, so that both give the same bits
            total += padded[age : age + len(values)]
        if self.how == "mean":
            total /= np.minimum(np.arange(1, len(values) + 1), self.width)
        return total


class Running:
    """One session's window while it runs, in O(width)."""

    __slots__ = ("_last", "_window")

    def __init__(self, window: Window) -> None:
        self._window = window
        self._last: deque[float] = deque(maxlen=window.width)

    def push(self, score: float) -> float:
        """Take a score in; the windowed score now, to the bit as `Window.over` gives it."""
        self._last.append(score)
        if self._window.width == 1:
            return score
        total = 0.0
        for previous in self._last:
            total += previous
        return total / len(self._last) if self._window.how == "mean" else total
