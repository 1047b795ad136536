"""Watching for ever: restarts, so that long calm does not excuse a later change.

An e-value that has seen five thousand calm responses needs many bad ones to be turned. So a new window opens every
`every` responses, which learns from what came before but bets only on what comes after; the j-th window gets the share
w_j = 6/(pi^2 j^2) of the trust, and evidence is the sum of w_j E_j over all windows (those to come counting 1).

Guarantee: that sum is a martingale from 1, so P(it ever reaches 1/delta) <= delta under exchangeability, for ever.
A change is found about every/2 responses, plus the delay of a fresh test, after it happens. Memory is O(1): the first
window and the last few are kept, others stop betting, which only lowers the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, pi

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.online.urn import MULTIPLES, UrnTest
from tocsin_calibration.thresholds.law import FalseAlarmLaw

EVERY = 1_000  # responses between restarts
KEPT = 8  # windows that go on betting, besides the first


class Watch:
    """Counts of one kind of traffic, and the evidence against its calibration. Not safe between threads."""

    def __init__(self, test: UrnTest, every: int = EVERY) -> None:
        if every < 1:
            raise CalibrationError(f"a restart needs at least one response, not {every}")
        self.test = test
        self.every = every
        self.counts = [0] * len(test.cells)
        self.seen = 0
        self._windows: list[tuple[int, list[int]]] = [(1, self.counts.copy())]  # number, counts before it
        self._opened = 1
        self._to_come = 1 - _share(1)  # the trust in windows that have not opened

    def add(self, counts: Sequence[int]) -> None:
        """Take in how many new responses fell in each cell."""
        for cell, count in enumerate(counts):
            if count:
                self.counts[cell] += count
                self.seen += count
        while self.seen >= self._opened * self.every:
            self._opened += 1
            self._to_come -= _share(self._opened)
            if self.seen < self._opened * self.every:  # a batch over several restarts opens the last one only
                self._windows.append((self._opened, self.counts.copy()))
                if len(self._windows) > KEPT + 1:
                    del self._windows[1]

    def log_evidence(self) -> float:
        """log of the evidence now, log(1/delta) to act on."""
        logs = []
        for number, before in self._windows:
            since = [now - then for now, then in zip(self.counts, before, strict=True)]
            logs.append(log(_share(number)) + self.test.log_evalue(since, before))
        if self._to_come > 0:
            logs.append(log(self._to_come))
        largest = max(logs)
        return largest + log(sum(exp(one - largest) for one in logs))


class ShiryaevRoberts:
    """The alternative to a watch: an e-detector that restarts at every response, R_t = (1 + R_{t-1}) e_t.

    Guarantee: under exchangeability the mean number of responses until R first reaches 1/delta is at least 1/delta
    (R_t - t is a martingale; Shin, Ramdas and Rinaldo 2024, arXiv:2203.03532). It finds late changes sooner, but sooner
    or later cries wolf: once in 1/delta responses on average at most, where a watch may never.

    e_t is the urn's likelihood ratio for one response at fixed rates, each with a sum of its own, mixed by trust. State
    is these sums and two counts; unlike a watch's counts, sums of replicas cannot be added.
    """

    def __init__(self, alarms: float, calm: float, rates: Sequence[tuple[float, float]]) -> None:
        """An urn of `alarms` and `calm` gaps (n+1-k and k), and (trust, rate) pairs of alternatives, rates below 1."""
        total = sum(trust for trust, _ in rates) or 1.0
        self._alarms, self._calm = float(alarms), float(calm)
        self._rates = [(trust / total, rate) for trust, rate in rates]
        self._sums = [0.0] * len(rates)

    @classmethod
    def of(cls, law: FalseAlarmLaw) -> ShiryaevRoberts:
        """For a promise's law, with the alternatives of the promise test."""
        rates = [(trust, multiple * law.mean_rate) for multiple, trust in MULTIPLES if multiple * law.mean_rate < 1]
        return cls(law.n + 1 - law.k, law.k, rates)

    def add(self, alarmed: bool) -> float:
        """Take a response in; R now."""
        rate = self._alarms / (self._alarms + self._calm)
        for at, (_, other) in enumerate(self._rates):
            ratio = other / rate if alarmed else (1 - other) / (1 - rate)
            self._sums[at] = min((1 + self._sums[at]) * ratio, 1e300)
        if alarmed:
            self._alarms += 1
        else:
            self._calm += 1
        return self.value

    @property
    def value(self) -> float:
        """R, at least 0; act when it reaches 1/delta."""
        return sum(trust * one for (trust, _), one in zip(self._rates, self._sums, strict=True))


def _share(number: int) -> float:
    return 6 / (pi * number) ** 2
