"""Evidence on a promise from the buckets of a histogram, where no single score is known.

A bucket tells of each score only between which bounds it is. A score counts as an alarm where every value of its bucket
is beyond the threshold, that is, by the largest p-value that it may have; all others count as calm.

Guarantee: what is counted alarms no more often than the scores themselves, and fewer alarms can never count against the
promise (`tocsin_calibration.online.alarm_rate`). So P(evidence ever reaches 1/delta) <= delta while the promise is
kept, wherever the bounds are and however often one looks; later windows do not learn from counts before them, which
would take exact counts. The coarser the buckets beyond the threshold, the later a broken promise shows; where none lies
beyond it, nothing does. Drift of scores within buckets, and too few alarms, cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isinf, log
from typing import NamedTuple

import numpy as np

from tocsin.replay.log_watch import Standing
from tocsin.replay.scraped_histogram import Bucket
from tocsin_calibration import Bundle, CalibrationError, Watch, promise_test

LARGEST = float(np.finfo(np.float32).max)


class Counted(NamedTuple):
    """One severity: its standing, and the calm scores whose buckets hold its threshold, which may have been alarms."""

    standing: Standing
    undecided: int


class HistogramWatch:
    """Judges buckets by a bundle. `of` is what the histogram counts: `signal`, the score that the bundle reads;
    `score`, that of its detector; `pvalue`, p-values by this bundle, not smoothed.

    `delta`: the probability that a promise that is kept is ever called broken; `restart`: scores between two windows of
    evidence. Raises CalibrationError where the bundle promises for sessions, groups or steps, has several detectors and
    the histogram none of p-values, or computes its score from signals and the histogram counts these.
    """

    def __init__(self, bundle: Bundle, of: str, *, delta: float = 0.01, restart: int = 1_000) -> None:
        self.promise, self._scorer, self._of = bundle.require_promise(), bundle.scorer, of
        if self.promise.sessions is not None or self.promise.groups or self.promise.is_per_step:
            raise CalibrationError("the bundle promises for sessions or groups, of which a histogram tells nothing")
        if of != "pvalue" and len(self._scorer.detectors) > 1:
            raise CalibrationError(
                "the bundle has several detectors, and a histogram is of one's scores: use tocsin_pvalue"
            )
        if of == "signal" and self._scorer.detectors[0].partition(":")[0] != "external":
            raise CalibrationError(
                f"the bundle computes its score ({self._scorer.detectors[0]}) from signals, of which a histogram tells "
                f"nothing: use tocsin_score"
            )
        laws = self.promise.laws.items()
        self._watches = {name: Watch(promise_test(law, learns=False), restart) for name, law in laws}
        self._limit = log(len(self.promise.alphas) / delta)
        self._decided: dict[Bucket, dict[str, bool | None]] = {}  # by bucket without its count
        self._undecided = dict.fromkeys(self.promise.alphas, 0)
        self.trials = 0

    def take(self, buckets: Iterable[Bucket]) -> int:
        """Count new scores. Returns how many there are."""
        alarms, count = dict.fromkeys(self.promise.alphas, 0), 0
        for bucket in buckets:
            count += bucket.size
            for name, is_alarm in self._decide(bucket._replace(size=0)).items():
                if is_alarm:
                    alarms[name] += bucket.size
                elif is_alarm is None:
                    self._undecided[name] += bucket.size
        for name, watch in self._watches.items():
            watch.add((alarms[name], count - alarms[name]))
        self.trials += count
        return count

    def standings(self) -> dict[str, Counted]:
        """The state of each severity, the mildest first."""
        result = {}
        for name, alpha in reversed(self.promise.alphas.items()):
            watch = self._watches[name]
            evidence = watch.log_evidence()
            expected = self.promise.limits.count_range(name, self.trials) if self.trials else None
            standing = Standing(watch.counts[0], self.trials, alpha, expected, evidence, evidence > self._limit)
            result[name] = Counted(standing, self._undecided[name])
        return result

    def _decide(self, bucket: Bucket) -> Mapping[str, bool | None]:
        """By severity whether all values of a bucket alarm at it, or a graver one; None where some do."""
        if bucket not in self._decided:
            ends = self._pvalue_ends(bucket) if self._of == "pvalue" else self._score_ends(bucket)
            self._decided[bucket] = {
                name: all(ends_alarm) or (None if any(ends_alarm) else False) for name, ends_alarm in ends.items()
            }
        return self._decided[bucket]

    def _pvalue_ends(self, bucket: Bucket) -> dict[str, list[bool]]:
        """Whether the least and the largest p-value of a bucket alarm, as multiples of 1/(n+1), which p-values are."""
        result = {}
        for name, law in self.promise.laws.items():
            least, largest = (
                np.floor(min(max(bound, 0.0), 1.0) * (law.n + 1) + 1e-9) for bound in (bucket.lower, bucket.upper)
            )
            needed = law.n + 1 - law.k
            result[name] = [bool(least + 1 <= needed), bool(largest <= needed)]
        return result

    def _score_ends(self, bucket: Bucket) -> dict[str, list[bool]]:
        """Whether the least and the largest score of a bucket alarm, as float32, which scores are judged as."""
        least = -LARGEST if isinf(bucket.lower) else _least_above(bucket.lower, exact=self._of == "score")
        largest = LARGEST if isinf(bucket.upper) else bucket.upper
        scores = np.array([[least], [largest]], np.float32)
        if self._of == "signal":
            (signal,) = self._scorer.signals
            scores = self._scorer.run({signal: scores})
        severities = self.promise.judge(scores).severities
        alphas = self.promise.alphas
        return {
            name: [severity is not None and alphas[severity] <= alpha for severity in severities]
            for name, alpha in alphas.items()
        }


def _least_above(bound: float, *, exact: bool) -> float:
    """The least float32 that a number above `bound` may be rounded to; `exact`: the number is a float32 itself."""
    rounded = np.float32(bound)
    return float(rounded if not exact or float(rounded) > bound else np.nextafter(rounded, np.float32(np.inf)))
