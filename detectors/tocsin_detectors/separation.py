"""How well scores tell shifted responses from safe ones."""

from __future__ import annotations

from math import exp, log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Z = 1.959963984540054  # 97.5% of a normal law lies below


class Interval(NamedTuple):
    """A figure and its 95% range."""

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
    """Of scores (n,) and (m,), higher = worse, both finite. AUROC's interval is that of `auroc_interval`; that of FPR95
    is found by resampling responses of both sides.
    """
    rng = np.random.default_rng(seed)
    drawn = [_fpr95(rng.choice(safe, len(safe)), rng.choice(shifted, len(shifted))) for _ in range(draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    area = auroc(safe, shifted)
    return Separation(
        Interval(area, *auroc_interval(safe, shifted)), Interval(_fpr95(safe, shifted), float(low), float(high))
    )


def auroc(safe: Scores, shifted: Scores) -> float:
    """The chance that a shifted response scores higher than a safe one, ties counting half; of scores (n,) and (m,)."""
    ordered = np.sort(safe)
    below, at_most = np.searchsorted(ordered, shifted, "left"), np.searchsorted(ordered, shifted, "right")
    return float((below + at_most).sum() / (2 * len(safe) * len(shifted)))


def auroc_interval(safe: Scores, shifted: Scores) -> tuple[float, float]:
    """The 95% range of the AUROC of scores (n,) and (m,): what either of two intervals holds.

    DeLong's on the logit scale (DeLong et al. 1988; Pepe 2003) follows the scores' own spread, and is empty where they
    do not overlap; Newcombe's fifth (2006, doi:10.1002/sim.2324), which inverts a score test with the variance of
    Hanley and McNeil, holds up to 1, where resampling covers the truth three times in four.
    """
    area = auroc(safe, shifted)
    low, high = _newcombe(area, len(safe), len(shifted))
    spread = _delong(safe, shifted)
    if 0 < area < 1 and spread > 0:
        middle, off = log(area / (1 - area)), Z * spread / (area * (1 - area))
        low, high = min(low, _logistic(middle - off)), max(high, _logistic(middle + off))
    return low, high


def _delong(safe: Scores, shifted: Scores) -> float:
    """DeLong's standard error of the AUROC."""
    if min(len(safe), len(shifted)) < 2:
        return 0.0
    variance = 0.0
    for sample, other in ((safe, shifted), (shifted, safe)):
        ordered = np.sort(other)
        placed = np.searchsorted(ordered, sample, "left") + np.searchsorted(ordered, sample, "right")
        variance += float((placed / (2 * len(other))).var(ddof=1)) / len(sample)
    return sqrt(variance)


def _newcombe(area: float, n: int, m: int) -> tuple[float, float]:
    """The areas t with |area - t| <= z sqrt(v(t)), by bisection from the figure outwards."""
    half = (n + m) / 2 - 1

    def too_far(t: float) -> bool:
        v = t * (1 - t) * (1 + half * ((1 - t) / (2 - t) + t / (1 + t))) / (n * m)
        return (area - t) ** 2 > Z**2 * v

    ends = []
    for end in (0.0, 1.0):
        inside, outside = area, end
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if too_far(middle) else (middle, outside)
        ends.append(inside)
    return ends[0], ends[1]


def _logistic(x: float) -> float:
    return 1 / (1 + exp(-x)) if x > -700 else 0.0


def _fpr95(safe: Scores, shifted: Scores) -> float:
    reached = np.sort(shifted)[int(0.05 * len(shifted))]
    return float((safe >= reached).mean())
