"""Whether a promise was kept on data that calibration never saw, by the law it obeys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.promise import Promise
from tocsin_calibration.thresholds.binomial import clopper_pearson
from tocsin_calibration.thresholds.law import FalseAlarmLaw
from tocsin_calibration.thresholds.limits import Limits

SURPRISE = 0.005  # each tail that a kept promise leaves with this probability


class Kept(NamedTuple):
    """Alarms of one severity among `n` safe responses (or sessions), and what the promise lets expect.

    `low`, `high`: the exact 99% interval of the rate seen. `least`, `most`: between which the count lies 99 times of
    100 while the promise holds. `chance`: the probability of as many alarms or more while it holds.
    """

    alpha: float
    n: int
    alarms: int
    low: float
    high: float
    least: int
    most: int
    chance: float

    @property
    def rate(self) -> float:
        """The share that alarmed."""
        return self.alarms / self.n if self.n else float("nan")

    @property
    def word(self) -> str:
        """kept, broken (more alarms than a kept promise raises), or quiet (fewer)."""
        if not self.n:
            return "unknown"
        return "broken" if self.alarms > self.most else "quiet" if self.alarms < self.least else "kept"


class SeedToSeed(NamedTuple):
    """Calibrating anew on a random half and judging the other half, many times: the alarm rate's mean and standard
    deviation, and the deviation that the law lets expect.
    """

    mean: float
    deviation: float
    expected: float
    splits: int


def kept(law: FalseAlarmLaw, alpha: float, alarms: int, n: int, *, least: int | None = None) -> Kept:
    """Judge a count by the law; `least`: from which count on it is no surprise, where the law is a bound alone."""
    if not n:
        return Kept(alpha, 0, 0, 0.0, 1.0, 0, 0, 1.0)
    low, most = law.count_interval(n, 1 - 2 * SURPRISE)
    low = low if least is None else min(low, least)
    return Kept(alpha, n, alarms, *clopper_pearson(alarms, n), low, most, law.at_least(n, alarms))


def kept_within(limits: Limits, severity: str, alpha: float, alarms: int, n: int) -> Kept:
    """Judge a count by a severity's limits: too few are fewer than the calibration scores over the threshold explain,
    so that ties and contamination are no surprise.
    """
    least = limits.count_range(severity, n, 1 - 2 * SURPRISE)[0] if n else None
    return kept(limits.laws[severity], alpha, alarms, n, least=least)


def kept_by_severity(
    promise: Promise, severities: Sequence[str | None], limits: Limits | None = None
) -> dict[str, Kept]:
    """Each severity's promise, by the pooled limits unless told others; the alarms of one include the graver ones."""
    own = limits or promise.limits
    return {
        name: kept_within(own, name, alpha, sum(s is not None and promise.alphas[s] <= alpha for s in severities),
                   len(severities))
        for name, alpha in promise.alphas.items()
    }  # fmt: skip


def kept_by_group(promise: Promise, severities: Sequence[str | None], groups: Sequence[str]) -> dict[str, Kept]:
    """The mildest severity's promise, group by group: by the group's own law where it has one, else the pooled one."""
    name, alpha = list(promise.alphas.items())[-1]
    counts: dict[str, list[int]] = {}
    for group, severity in zip(groups, severities, strict=True):
        count = counts.setdefault(str(group), [0, 0])
        count[0] += severity is not None
        count[1] += 1
    return {
        group: kept_within(promise.groups.get(group, promise.limits), name, alpha, alarms, n)
        for group, (alarms, n) in sorted(counts.items())
    }


def seed_to_seed(joint: NDArray[np.float64], alpha: float, *, splits: int = 20, seed: int = 0) -> SeedToSeed | None:
    """How much luck of the draw there is, from nonconformity scores (n,) of safe data; None when too few."""
    half = len(joint) // 2
    if half * alpha < 1:
        return None
    law = FalseAlarmLaw.at(half, alpha)
    rates = []
    for draw in range(splits):
        order = np.random.default_rng([seed, draw]).permutation(len(joint))
        limit = np.sort(joint[order[:half]])[law.k - 1]
        rates.append(float((joint[order[half:]] > limit).mean()))
    m, mean = len(joint) - half, law.mean_rate
    expected = (mean * (1 - mean) / m * (1 + (m - 1) / (law.n + 2))) ** 0.5
    return SeedToSeed(float(np.mean(rates)), float(np.std(rates)), expected, splits)
