"""Watching for ever: restarts, so that long calm does not excuse a later change.

An e-value that has seen five thousand calm responses needs many bad ones to be turned. So a new window opens every
`every` responses, which bets only on what comes after; the j-th window gets the share w_j = 6/(pi^2 j^2) of the trust.
A change is found about every/2 responses, plus the delay of a fresh test, after it happens.

Windows are dyadic: one that opened after s = 2^l m times `every` responses (m odd) bets on until the next one has
opened PER_AGE 2^l times. So windows of every age stay, at most a quarter of their age apart from age PER_AGE on, in
memory that grows with the log of the responses: a change that is too small to show in a few thousand responses is found
by a window that opened near it, however long that takes. The first window never ends. A window that stops betting only
lowers the evidence, so that which ones do is free to choose.

**Drift** (`UrnTest`). A window learns its null from all that came before. Evidence is the sum of w_j E_j over all
windows (those to come counting 1): a martingale from 1, so P(it ever reaches 1/delta) <= delta under exchangeability.

**Alarms** (`RateTest`). Evidence is the largest of w_j F_j, and P(it ever reaches 1/delta) <= sum_j delta w_j = delta
by the union bound, from these bets of window j, each of which reaches x with probability at most 1/x:

- fresh: F_j starts from the law of calibration, as if nothing had come before. The responses of a window are as
  exchangeable with calibration as all of them are, and the proof of `alarm_rate` holds for any traffic each of whose
  responses alarms with at most the chance that calibration gives it: ties, contamination, quieter times.
- learning, where nothing ties at the threshold and ten gaps or more lie above it: given a alarms in the t responses
  before, the rate is Beta(n+1-k+a, k+t-a), and stochastically at most Beta(n+1-k+b, k+t-b) for any b >= a; F_j starts
  from that, with b = max(a, t (n+1-k)/(n+1)): a window may learn that this calibration set alarms more often than the
  average one, never that it alarms less often. F_j grows with the alarms, so that the higher law bounds it. It has 0.8
  of w_j, the fresh bet the rest; and it is left out where a is so low that calibration does not explain it.

Guarantee of the alarms' watch: under exchangeability P(evidence ever reaches 1/delta) <= delta; with ties at the
threshold, on contaminated calibration and while traffic is quieter too, there by the fresh bets alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, log, pi

import numpy as np

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.online.alarm_rate import MULTIPLES, QuietTest, RateTest
from tocsin_calibration.online.urn import UrnTest, log_evalues
from tocsin_calibration.thresholds.law import FalseAlarmLaw

EVERY = 1_000  # responses between restarts
PER_AGE = 8  # windows of the last restarts that go on betting; of each further power of two of an age, half as many


class Watch:
    """Counts of one kind of traffic, and the evidence against its calibration. Not safe between threads.

    `quiet`: what the same counts are held to as well, when they are of alarms.
    """

    def __init__(self, test: UrnTest | RateTest, every: int = EVERY, quiet: QuietTest | None = None) -> None:
        if every < 1:
            raise CalibrationError(f"a restart needs at least one response, not {every}")
        self.test, self.quiet = test, quiet
        self.every = every
        self.counts = [0] * len(test.cells)
        self.responses = 0
        self._windows: list[tuple[int, list[int]]] = [(1, self.counts.copy())]  # number, counts before it
        self._opened = 1
        self._to_come = 1 - _share(1)  # the trust in windows that have not opened
        self._log_evidence: float | None = None  # as last worked out, while the counts are the same

    def add(self, counts: Sequence[int]) -> None:
        """Take in how many new responses fell in each cell."""
        self._log_evidence = None
        self.counts = [count + more for count, more in zip(self.counts, counts, strict=True)]
        self.responses += sum(counts)
        while self.responses >= self._opened * self.every:
            self._opened += 1
            self._to_come -= _share(self._opened)
            if self.responses < self._opened * self.every:  # a batch over several restarts opens the last one only
                self._windows = [window for window in self._windows if self._stays(window[0])]
                self._windows.append((self._opened, self.counts.copy()))

    def log_evidence(self) -> float:
        """log of the evidence now, log(1/delta) to act on."""
        if self._log_evidence is None:
            self._log_evidence = self._weigh()
        return self._log_evidence

    def _weigh(self) -> float:
        logs = [log(_share(number)) + self.test.log_evalue(since, before) for number, before, since in self._since()]
        if self._to_come > 0:
            logs.append(log(self._to_come))
        largest = max(logs)
        return largest + log(sum(exp(term - largest) for term in logs)) if self.test.adds_up else largest

    def log_quiet_evidence(self) -> float | None:
        """log of the evidence that there are fewer alarms than calibration explains, None where it cannot tell."""
        if self.quiet is None:
            return None
        return max(log(_share(number)) + self.quiet.log_evalue(since) for number, _, since in self._since())

    def _stays(self, number: int) -> bool:
        """Whether a window goes on betting, now that number `_opened` opens."""
        restarts = number - 1
        return restarts == 0 or self._opened - number < PER_AGE * (restarts & -restarts)

    def _since(self) -> Iterator[tuple[int, list[int], list[int]]]:
        """Each window's number, the counts before it, and those since."""
        for number, before in self._windows:
            yield number, before, [now - then for now, then in zip(self.counts, before, strict=True)]


def log_evidences(watches: Sequence[Watch]) -> list[float]:
    """`log_evidence` of several watches of urn tests at once, which takes little longer than that of one."""
    result = [watch.log_evidence() if not isinstance(watch.test, UrnTest) else 0.0 for watch in watches]
    by_shape: dict[tuple[int, int], list[int]] = {}
    for at, watch in enumerate(watches):
        if isinstance(watch.test, UrnTest):
            by_shape.setdefault(watch.test.shape, []).append(at)
    for places in by_shape.values():
        tests = [test for at in places if isinstance(test := watches[at].test, UrnTest)]
        windows = [(number, *window) for number, at in enumerate(places) for window in watches[at]._since()]
        which = np.array([number for number, *_ in windows])
        before, since = (np.array([window[at] for window in windows]) for at in (2, 3))
        logs = log_evalues(tests, which, since, before) + np.log([_share(window[1]) for window in windows])
        to_come = np.log([max(watches[at]._to_come, 1e-300) for at in places])
        for number, at in enumerate(places):
            result[at] = float(np.logaddexp.reduce([*logs[which == number], to_come[number]]))
    return result


class ShiryaevRoberts:
    """The alternative to a watch: an e-detector that restarts at every response, R_t = (1 + R_{t-1}) e_t.

    Guarantee: under exchangeability the mean number of responses until R first reaches 1/delta is at least 1/delta
    (R_t - t is a martingale; Shin, Ramdas and Rinaldo 2024, arXiv:2203.03532). It finds late changes sooner, but sooner
    or later raises a false alert: once in 1/delta responses on average at most, where a watch may never.

    e_t is the urn's likelihood ratio for one response at fixed rates, each with a sum of its own, mixed by trust. The
    urn's chance of an alarm is taken as at least the expected rate, so that a time of few alarms does not make the
    usual rate look high afterwards: with a lower chance the mean of e_t is at most 1 all the same, which is enough.
    With ties at the threshold the run length was only simulated. State is these sums and two counts; unlike a watch's
    counts, sums of replicas cannot be added.
    """

    def __init__(self, alarms: float, calm: float, rates: Sequence[tuple[float, float]]) -> None:
        """An urn of `alarms` and `calm` gaps (n+1-k and k), and (trust, rate) pairs of alternatives, rates below 1."""
        total = sum(trust for trust, _ in rates) or 1.0
        self._alarms, self._calm = float(alarms), float(calm)
        self._expected = self._alarms / (self._alarms + self._calm)
        self._rates = [(trust / total, rate) for trust, rate in rates]
        self._sums = [0.0] * len(rates)

    @classmethod
    def of(cls, law: FalseAlarmLaw) -> ShiryaevRoberts:
        """For a promise's law, with the alternatives of the promise test."""
        rates = [(trust, multiple * law.mean_rate) for multiple, trust in MULTIPLES if multiple * law.mean_rate < 1]
        return cls(law.n + 1 - law.k, law.k, rates)

    def add(self, alarmed: bool) -> float:
        """Take a response in; R now."""
        rate = max(self._expected, self._alarms / (self._alarms + self._calm))
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
        return sum(trust * total for (trust, _), total in zip(self._rates, self._sums, strict=True))


def _share(number: int) -> float:
    return 6 / (pi * number) ** 2
