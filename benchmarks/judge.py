"""One verdict on many splits: each total by its exact law, all of them together at one failure probability."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, log

import numpy as np
from scipy.stats import binom

from benchmarks.exact import Pmf, too_few, too_many, total_of
from tocsin_calibration import FalseAlarmLaw

FAILURE = 1e-4  # with which the whole benchmark may fail although every promise is kept


@dataclass
class Finding:
    """One promise over independent blocks of data: what was promised, what was seen, and how surprising that is."""

    promise: str
    nominal: float
    events: float = 0
    trials: int = 0
    tails: list[float] = field(default_factory=list)  # probabilities that a kept promise gives to what was seen

    @property
    def realised(self) -> float:
        """The share of events among trials."""
        return self.events / self.trials if self.trials else float("nan")


class Judge:
    """Collects findings by promise, and decides at the end which promises hold.

    Counts of one split of a pair are judged at once. Those that share a `pool` come from different data sets and are
    independent, so their total is judged too, which sees what is too small to show in any of them.
    """

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}
        self._pools: dict[tuple[str, int], tuple[list[tuple[FalseAlarmLaw, int]], list[int], list[bool]]] = {}

    def counts(
        self,
        promise: str,
        nominal: float,
        laws: list[tuple[FalseAlarmLaw, int]],
        events: int,
        *,
        exact: bool = True,
        pool: int | None = None,
    ) -> None:
        """Events of one split, over independent blocks with these laws; `exact`: too few would be as wrong as too
        many.
        """
        if not laws:
            return
        self._add(promise, nominal, events, sum(m for _, m in laws), total_of(laws), exact)
        if pool is not None:
            pooled, counts, exacts = self._pools.setdefault((promise, pool), ([], [], []))
            pooled += laws
            counts.append(events)
            exacts.append(exact)

    def judge_pools(self) -> None:
        """Judge the totals over data sets."""
        for (promise, _), (laws, counts, exacts) in self._pools.items():
            pmf, events = total_of(laws), sum(counts)
            self.findings[promise].tails.append(too_many(pmf, events))
            if all(exacts):
                self.findings[promise].tails.append(too_few(pmf, events))
        self._pools.clear()

    def binomial(self, promise: str, nominal: float, events: int, trials: int, *, exact: bool = True) -> None:
        """Events of one split among independent trials, each with the probability `nominal`, or at most that."""
        if trials:
            pmf = binom.pmf(np.arange(trials + 1), trials, nominal)
            self._add(promise, nominal, events, trials, pmf, exact)

    def mean(self, promise: str, nominal: float, shares: list[float]) -> None:
        """Independent shares in [0, 1] whose expectation is at most `nominal`, by the Chernoff-Hoeffding bound."""
        if not shares:
            return
        finding = self._of(promise, nominal)
        realised = float(np.mean(shares))
        finding.events, finding.trials = finding.events + float(np.sum(shares)), finding.trials + len(shares)
        finding.tails.append(exp(-len(shares) * _divergence(realised, nominal)) if realised > nominal else 1.0)

    def surprises(self) -> dict[str, float]:
        """By promise, the smallest tail over all splits and pairs, times how many there are of them (Bonferroni)."""
        return {name: min(1.0, min(f.tails) * len(f.tails)) for name, f in self.findings.items()}

    def holds(self, promise: str) -> bool:
        """Whether a promise was kept, at its share of the failure probability of all of them together."""
        every = sum(len(finding.tails) for finding in self.findings.values())
        return min(self.findings[promise].tails) > FAILURE / every

    def _of(self, promise: str, nominal: float) -> Finding:
        return self.findings.setdefault(promise, Finding(promise, nominal))

    def _add(self, promise: str, nominal: float, events: int, trials: int, pmf: Pmf, exact: bool) -> None:
        finding = self._of(promise, nominal)
        finding.events, finding.trials = finding.events + events, finding.trials + trials
        finding.tails.append(too_many(pmf, events))
        if exact:
            finding.tails.append(too_few(pmf, events))


def _divergence(realised: float, nominal: float) -> float:
    if realised >= 1:
        return -log(nominal)
    return realised * log(realised / nominal) + (1 - realised) * log((1 - realised) / (1 - nominal))
