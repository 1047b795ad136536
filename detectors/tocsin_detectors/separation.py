"""How well scores tell shifted responses from safe ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]


class Interval(NamedTuple):
    """A figure and the range that holds 95% of its bootstrap."""

    value: float
    low: float
    high: float


class Separation(NamedTuple):
    """AUROC: the chance that a shifted response scores higher than a safe one, ties counting half. FPR95: the share
    of safe responses at or above the threshold that 95% of the shifted ones reach.
    """

    auroc: Interval
    fpr95: Interval


def separation(safe: Scores, shifted: Scores, *, seed: int = 0, draws: int = 200) -> Separation:
    """Of scores (n,) and (m,), higher = worse, both finite; intervals by resampling responses of both sides."""
    rng = np.random.default_rng(seed)
    values = np.array([_figures(safe, shifted)])
    drawn = np.array([_figures(rng.choice(safe, len(safe)), rng.choice(shifted, len(shifted))) for _ in range(draws)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    intervals = [Interval(float(v), float(a), float(b)) for v, a, b in zip(values[0], low, high, strict=True)]
    return Separation(*intervals)


def auroc(safe: Scores, shifted: Scores) -> float:
    """The chance that a shifted response scores higher than a safe one, ties counting half; of scores (n,) and (m,)."""
    ordered = np.sort(safe)
    below, at_most = np.searchsorted(ordered, shifted, "left"), np.searchsorted(ordered, shifted, "right")
    return float((below + at_most).sum() / (2 * len(safe) * len(shifted)))


def _figures(safe: Scores, shifted: Scores) -> tuple[float, float]:
    reached = np.sort(shifted)[int(0.05 * len(shifted))]
    return auroc(safe, shifted), float((safe >= reached).mean())
