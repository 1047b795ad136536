"""Explains an alarm: how extreme each detector's score is, and which safe responses are most similar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration import Promise

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Contribution:
    """One detector's part in an alarm: its score and p-value, the range of calibration scores, and the score that
    alarms by itself.

    `beyond` is how far the score lies above the highest calibration score, in spreads (highest less median); negative
    when it does not.
    """

    detector: str
    score: float
    p: float
    median: float
    high: float  # 99% of calibration scores lie below
    highest: float
    threshold: float
    beyond: float

    @property
    def text(self) -> str:
        """In words."""
        if self.score > self.highest:
            return f"above every calibration score, by {self.beyond:.2g} times their spread"
        if self.score > self.high:
            return "among the highest hundredth of calibration scores"
        return "higher than usual" if self.p < 0.1 else "as usual"


@dataclass(frozen=True)
class Neighbour:
    """A safe response whose scores are most like the alarm's: its row among those given, scores, and distance in
    spreads.
    """

    row: int
    scores: dict[str, float]
    distance: float


def contributions(promise: Promise, alarm: dict[str, Any]) -> list[Contribution]:
    """The part of each detector in an alarm's event data, the strongest first. Raises KeyError where the event lacks a
    detector's score.
    """
    result = []
    thresholds = promise.detector_thresholds(alarm["severity"])
    for column, name in enumerate(promise.detectors):
        reference, score = promise.reference[:, column], float(alarm["scores"][name])
        median, high, highest = (float(value) for value in np.quantile(reference, [0.5, 0.99, 1.0]))
        beyond = (score - highest) / ((highest - median) or 1.0)
        p = float(alarm["detectors"][name])
        result.append(Contribution(name, score, p, median, high, highest, thresholds[name], beyond))
    return sorted(result, key=lambda part: (part.p, -part.beyond))


def neighbours(promise: Promise, alarm: dict[str, Any], safe: Scores, most: int = 5) -> list[Neighbour]:
    """The safe responses (n, d) with the nearest scores, in units of each detector's spread."""
    median, highest = np.quantile(promise.reference, [0.5, 1.0], axis=0)
    spread = np.where(highest > median, highest - median, 1.0)
    at = np.array([float(alarm["scores"][name]) for name in promise.detectors])
    distances = np.sqrt((((safe - at) / spread) ** 2).sum(axis=1))
    rows = np.argsort(distances, kind="stable")[:most].tolist()
    return [
        Neighbour(row, dict(zip(promise.detectors, safe[row].tolist(), strict=True)), float(distances[row]))
        for row in rows
    ]
