"""Alarms counted in parts of the data, for an evaluation of more responses than memory holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.evaluation.kept import kept_within
from tocsin_calibration.evaluation.results import BINS, Evaluation
from tocsin_calibration.promise import Promise


class AlarmCounts:
    """Of `n` safe responses how many alarmed, by severity, and their p-values in bins. Parts can be merged."""

    def __init__(self, promise: Promise) -> None:
        if promise.sessions is not None:
            raise CalibrationError(f"a promise for {promise.unit} is not evaluated in parts: sessions lie across them")
        self.n = 0
        self.alarms = dict.fromkeys(promise.alphas, 0)
        self.pvalues = np.zeros(BINS, np.int64)

    def add(self, promise: Promise, scores: NDArray[np.floating]) -> None:
        """Take in detectors' scores (k, d) of responses in no group that has a promise of its own."""
        joint = promise.joint(scores)
        self.n += len(joint)
        for name, limit in promise.thresholds.items():
            self.alarms[name] += int((joint > limit).sum())
        self.pvalues += np.histogram(promise.limits.pvalues(joint), BINS, (0, 1))[0]

    def merge(self, other: AlarmCounts) -> None:
        """Take in another part's counts."""
        self.n += other.n
        self.alarms = {name: count + other.alarms[name] for name, count in self.alarms.items()}
        self.pvalues += other.pvalues

    def evaluation(self, promise: Promise) -> Evaluation:
        """What these counts say; what needs every response's score at once is left out."""
        if not self.n:
            raise CalibrationError("there is nothing to evaluate on")
        severities = {
            name: kept_within(promise.limits, name, alpha, self.alarms[name], self.n)
            for name, alpha in promise.alphas.items()
        }
        return Evaluation(promise.unit, severities, {}, self.pvalues.tolist(), None, None, None, None)
