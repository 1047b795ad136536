"""Whether a promise was kept on data that calibration never saw, by the law it obeys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.promise import OTHERS, Promise
from tocsin_calibration.thresholds.binomial import clopper_pearson
from tocsin_calibration.thresholds.law import FalseAlarmLaw
from tocsin_calibration.thresholds.limits import Limits

SURPRISE = 0.005  # each tail that a kept promise leaves with this probability
OTHER_GROUPS = "all others"  # what an evaluation calls the responses of groups without a promise of their own


class PromiseCheck(NamedTuple):
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


def check_count(
    law: FalseAlarmLaw, alpha: float, alarms: int, n: int, *, least: int | None = None, surprise: float = SURPRISE
) -> PromiseCheck:
    """Judge a count by the law, whose tails hold `surprise` each; `least`: from which count on it is no surprise, where
    the law is a bound alone.
    """
    if not n:
        return PromiseCheck(alpha, 0, 0, 0.0, 1.0, 0, 0, 1.0)
    low, most = law.count_interval(n, 1 - 2 * surprise)
    low = low if least is None else min(low, least)
    return PromiseCheck(alpha, n, alarms, *clopper_pearson(alarms, n), low, most, law.at_least(n, alarms))


def kept_within(
    limits: Limits, severity: str, alpha: float, alarms: int, n: int, *, surprise: float = SURPRISE
) -> PromiseCheck:
    """Judge a count by a severity's limits: too few are fewer than the calibration scores over the threshold explain,
    so that ties and contamination are no surprise.
    """
    least = limits.count_range(severity, n, 1 - 2 * surprise)[0] if n else None
    return check_count(limits.laws[severity], alpha, alarms, n, least=least, surprise=surprise)


def kept_by_severity(
    promise: Promise, severities: Sequence[str | None], limits: Limits | None = None
) -> dict[str, PromiseCheck]:
    """Each severity's promise, by the pooled limits unless told others; the alarms of one include the graver ones."""
    bounds = limits or promise.limits
    return {
        name: kept_within(bounds, name, alpha, sum(s is not None and promise.alphas[s] <= alpha for s in severities),
                   len(severities))
        for name, alpha in promise.alphas.items()
    }  # fmt: skip


def kept_by_group(promise: Promise, severities: Sequence[str | None], groups: Sequence[str]) -> dict[str, PromiseCheck]:
    """The mildest severity's promise, by what is promised for by itself: groups, and under OTHER_GROUPS the responses
    of all further ones. What is expected holds for all of them at once (Bonferroni): while every promise is kept, any
    at all is called broken once in 200 times at most. Groups without a promise are not judged.
    """
    name, alpha = list(promise.alphas.items())[-1]
    counts = counts_by_part(promise, severities, groups)[name]
    return {
        OTHER_GROUPS if group == OTHERS else group: kept_within(
            promise.parts[group], name, alpha, alarms, n, surprise=SURPRISE / len(counts)
        )
        for group, (alarms, n) in sorted(counts.items())
    }


def kept_over_groups(
    promise: Promise, severities: Sequence[str | None], groups: Sequence[str]
) -> dict[str, PromiseCheck]:
    """Each severity's promise over all responses that one is made for, by the law of the groups' counts together: each
    has a calibration set of its own.
    """
    checks = {}
    for name, counts in counts_by_part(promise, severities, groups).items():
        alarms, n = sum(a for a, _ in counts.values()), sum(n for _, n in counts.values())
        alpha = promise.alphas[name]
        if not n:
            checks[name] = PromiseCheck(alpha, 0, 0, 0.0, 1.0, 0, 0, 1.0)
            continue
        law = total_law([(promise.parts[group].laws[name], m) for group, (_, m) in counts.items()])
        cdf = np.cumsum(law)
        most = int(np.searchsorted(cdf, 1 - SURPRISE))
        exact = all(promise.parts[group].exact[name] for group in counts)
        least = int(np.searchsorted(cdf, SURPRISE, side="right")) if exact else 0
        checks[name] = PromiseCheck(
            alpha, n, alarms, *clopper_pearson(alarms, n), least, most, float(law[alarms:].sum())
        )
    return checks


def counts_by_part(
    promise: Promise, severities: Sequence[str | None], groups: Sequence[str]
) -> dict[str, dict[str, tuple[int, int]]]:
    """By severity and by what is promised for by itself, alarms of it or a graver one, and responses."""
    parts = np.asarray([group if group in promise.groups else OTHERS for group in map(str, groups)])
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for name, alpha in promise.alphas.items():
        alarmed = np.asarray([s is not None and promise.alphas[s] <= alpha for s in severities], bool)
        counts[name] = {
            str(part): (int(alarmed[parts == part].sum()), int((parts == part).sum()))
            for part in np.unique(parts)
            if part in promise.parts
        }
    return counts


def total_law(laws: Sequence[tuple[FalseAlarmLaw, int]]) -> NDArray[np.float64]:
    """The law of all alarms together, from independent laws and how many responses each is of: P(c) for c = 0.. ."""
    size = 1 + sum(m for _, m in laws)
    length = 1 << (size - 1).bit_length()
    product = np.ones(length // 2 + 1, np.complex128)
    for law, m in laws:
        product *= np.fft.rfft(law.count_pmf(m), length)
    shares = np.clip(np.fft.irfft(product, length)[:size], 0, None)
    return np.asarray(shares / shares.sum(), np.float64)


def seed_to_seed(joint: NDArray[np.float64], alpha: float, *, splits: int = 20, seed: int = 0) -> SeedToSeed | None:
    """How much the realised rate varies from one random calibration set to another, from nonconformity scores (n,) of
    safe data; None when too few.
    """
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
