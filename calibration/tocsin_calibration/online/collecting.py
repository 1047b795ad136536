"""Collecting calibration anew from live traffic, without spoiling what makes it one.

A calibration set must be exchangeable with the safe traffic that it will judge. Three things would spoil it, and are
ruled out here:

- choosing by score: leaving out what alarmed cuts the upper tail off, and the next calibration alarms too often. Scores
  enter whatever they are; what leaves, leaves by time.
- an incident in progress: scores wait for `delay` seconds before they count, and whoever confirms an incident names its
  time, whose scores are left out (a decision about times, made from the outside, not about scores).
- age: `Rolling` keeps the newest, for traffic that changes slowly; `Reservoir` a uniform sample of all there was
  (Vitter 1985, algorithm R), for traffic that does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]


class _Scored(NamedTuple):
    time: float
    scores: Float64


class _Collected(ABC):
    """Scores that wait, then are kept by a subclass's rule, at most `size` of them."""

    def __init__(self, size: int, delay: float = 0.0) -> None:
        if size < 1 or delay < 0:
            raise CalibrationError("a collection keeps at least one response, after a delay of 0 seconds or more")
        self.size = size
        self.delay = delay
        self._waiting: deque[_Scored] = deque()
        self._incidents: list[tuple[float, float]] = []

    def add(self, time: float, scores: ArrayLike) -> None:
        """A response's detector scores (d,), at a time in seconds; times must not run backwards by more than
        `delay`.
        """
        self._waiting.append(_Scored(time, np.asarray(scores, np.float64)))

    def incident(self, start: float, end: float) -> int:
        """Leave out what came from `start` to `end`, now and later; how many kept responses that removes."""
        if not start <= end:
            raise CalibrationError(f"an incident cannot end ({end}) before it starts ({start})")
        self._incidents.append((start, end))
        return self._remove()

    def scores(self, now: float) -> Float64:
        """What is kept at the time `now`, (n, d), in no particular order; (0, 0) when nothing is."""
        while self._waiting and self._waiting[0].time <= now - self.delay:
            entry = self._waiting.popleft()
            if not self._spoilt(entry):
                self._keep(entry)
        rows = [entry.scores for entry in self._entries()]
        return np.array(rows) if rows else np.zeros((0, 0))

    def _spoilt(self, entry: _Scored) -> bool:
        return any(start <= entry.time <= end for start, end in self._incidents)

    @abstractmethod
    def _keep(self, entry: _Scored) -> None: ...

    @abstractmethod
    def _entries(self) -> Iterable[_Scored]: ...

    @abstractmethod
    def _remove(self) -> int: ...


class Rolling(_Collected):
    """The newest `size` responses that have waited."""

    def __init__(self, size: int, delay: float = 0.0) -> None:
        super().__init__(size, delay)
        self._newest: deque[_Scored] = deque(maxlen=size)

    def _keep(self, entry: _Scored) -> None:
        self._newest.append(entry)

    def _entries(self) -> Iterable[_Scored]:
        return self._newest

    def _remove(self) -> int:
        before = len(self._newest)
        self._newest = deque((entry for entry in self._newest if not self._spoilt(entry)), maxlen=self.size)
        return before - len(self._newest)


class Reservoir(_Collected):
    """A uniform sample of `size` of all responses that have waited, drawn by `seed`."""

    def __init__(self, size: int, delay: float = 0.0, seed: int = 0) -> None:
        super().__init__(size, delay)
        self._sample: list[_Scored] = []
        self._offered = 0
        self._rng = np.random.default_rng(seed)

    def _keep(self, entry: _Scored) -> None:
        self._offered += 1
        if len(self._sample) < self.size:
            self._sample.append(entry)
        elif (at := int(self._rng.integers(self._offered))) < self.size:
            self._sample[at] = entry

    def _entries(self) -> Iterable[_Scored]:
        return self._sample

    def _remove(self) -> int:
        """The sample shrinks by what is removed, and stays small: filling it with what comes would favour the new."""
        before = len(self._sample)
        self._sample = [entry for entry in self._sample if not self._spoilt(entry)]
        self._offered = round(self._offered * len(self._sample) / before) if before else self._offered
        self.size = max(1, len(self._sample)) if len(self._sample) < before == self.size else self.size
        return before - len(self._sample)
