"""Calibration scores in order: all of them, or of very many enough to rank others by.

A million scores in every replica's memory buy nothing: what a p-value needs is how many calibration scores lie at or
below it. So of more than EXACT scores only some are kept, each with the number of scores at or below it,
`cumulative_counts`: the EXACT largest, those that are thresholds, and some thousand below. A new score is then read as
the next kept one above it, as if all that lie between two kept ones tied. Alarms are the same to the bit, because
thresholds are kept; p-values are never too small, exact up to EXACT / n, and above that too large by what two kept
scores lie apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.lookup import pvalue_lookup
from tocsin_calibration.thresholds.split import sorted_scores

Float64 = NDArray[np.float64]
Counts = NDArray[np.int64]
EXACT = 1 << 18  # up to so many scores all are kept, two megabytes


class Ordered(NamedTuple):
    """`scores` (m,) ascending, `n` calibration scores in all. `cumulative_counts` (m,): how many lie at or below each
    kept one; None where all are kept.
    """

    scores: Float64
    n: int
    cumulative_counts: Counts | None = None

    @classmethod
    def of(cls, scores: ArrayLike) -> Ordered:
        """All of the scores (n,). Raises CalibrationError when there are none, or some are not finite."""
        ordered = sorted_scores(scores)
        return cls(ordered, len(ordered))

    @classmethod
    def from_counts(cls, scores: ArrayLike, cumulative_counts: ArrayLike) -> Ordered:
        """Some of the scores (m,), with counts (m,) that rise to n. Raises CalibrationError when they do not."""
        ordered, counts = np.asarray(scores, np.float64), np.asarray(cumulative_counts, np.int64)
        if ordered.shape != counts.shape or ordered.ndim != 1 or not len(ordered):
            raise CalibrationError(f"{counts.shape} counts do not fit kept scores of shape {ordered.shape}")
        if not np.isfinite(ordered).all() or (np.diff(ordered) <= 0).any() or (np.diff(counts, prepend=0) <= 0).any():
            raise CalibrationError("kept calibration scores and their counts must be finite and rise")
        return cls(ordered, int(counts[-1]), counts)

    def at_rank(self, k: int) -> float:
        """The k-th smallest, from 1; of some scores the smallest kept one that has k at or below it."""
        return float(
            self.scores[k - 1 if self.cumulative_counts is None else np.searchsorted(self.cumulative_counts, k)]
        )

    def below(self, scores: ArrayLike) -> Counts:
        """How many calibration scores lie below scores (m,); ties with the next kept one do not."""
        at = np.searchsorted(self.scores, np.asarray(scores, np.float64), side="left")
        return at if self.cumulative_counts is None else np.append(0, self.cumulative_counts)[at]

    def at_most(self, scores: ArrayLike) -> Counts:
        """How many lie at or below scores (m,); ties with the next kept one do."""
        values = np.asarray(scores, np.float64)
        if self.cumulative_counts is None:
            return np.searchsorted(self.scores, values, side="right")
        return np.append(self.cumulative_counts, self.n)[np.searchsorted(self.scores, values, side="left")]

    def as_kept(self, scores: ArrayLike) -> Float64:
        """Scores (m,) as they are read: where only some are kept, the next kept one above, or infinity."""
        values = np.asarray(scores, np.float64)
        return (
            values
            if self.cumulative_counts is None
            else np.append(self.scores, np.inf)[np.searchsorted(self.scores, values)]
        )

    def ties(self, k: int) -> bool:
        """Whether the k-th smallest, from 1, is known to tie with another."""
        value = self.at_rank(k)
        if self.cumulative_counts is not None:
            return int(self.at_most(value)) > k
        return int(self.at_most(value) - self.below(value)) > 1

    def pvalues(self, scores: ArrayLike) -> Float64:
        """p = (1 + #{i: s_i >= s}) / (n+1) for each score (m,), in (0, 1]."""
        return np.asarray((1.0 + (self.n - self.below(scores))) / (self.n + 1.0), np.float64)

    def pvalue_of_one(self) -> Callable[[float], float]:
        """The same for one score at a time, to the bit."""
        return pvalue_lookup(self.scores, self.cumulative_counts)

    def spread(self, most: int) -> Float64:
        """Up to `most` scores that stand for all, at equally spaced ranks."""
        if self.cumulative_counts is None and self.n <= most:
            return self.scores
        ranks = np.linspace(1, self.n, min(most, self.n)).astype(np.int64)
        return self.scores[
            ranks - 1 if self.cumulative_counts is None else np.searchsorted(self.cumulative_counts, ranks)
        ]
