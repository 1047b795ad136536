"""Conformal sets of label sets: which combinations of labels are still believable, of 2^L.

For a model that gives each of L labels a score in [0, 1], the nonconformity of a label set is the l1 distance between
scores and the set's indicator, labels weighted by how reliable their scores are. A threshold tau on the distance of
calibration responses' true sets gives

Guarantee: the true label set of an exchangeable response is within tau with probability at least 1 - alpha.

The sets within tau need no enumeration. The nearest one rounds every score; flipping label l from there costs
w_l |1 - 2 s_l|; a set is within tau exactly when its flips cost no more than what tau leaves. So membership is a sum,
labels whose flip alone is too dear are the same in all sets, and sets come nearest first out of a heap of flip
combinations, pruned where the cheapest continuation is already too dear.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.split import threshold

Float64 = NDArray[np.float64]
Labels = NDArray[np.bool_]


class LabelSets:
    """The label sets of one response that the promise holds on to.

    `certain` (L,): labels that are in every one of them or in none; `nearest` (L,): the set that is nearest, of which
    the certain labels tell which.
    """

    def __init__(self, scores: Float64, weights: Float64, tau: float) -> None:
        self.nearest: Labels = scores > 0.5
        self._weights, self._scores, self._tau = weights, scores, tau
        self._costs = weights * np.abs(1 - 2 * scores)
        self._remaining = tau - float((weights * np.minimum(scores, 1 - scores)).sum()) + 1e-12
        self.certain: Labels = self._costs > self._remaining

    def __contains__(self, labels: ArrayLike) -> bool:
        """Whether a label set (L,) is one of them."""
        flips = np.asarray(labels, bool) ^ self.nearest
        return float(self._costs[flips].sum()) <= self._remaining

    def __iter__(self) -> Iterator[Labels]:
        """The sets (L,), nearest first; there may be very many, so take as many as are wanted."""
        if self._remaining < 0:
            return
        yield self.nearest.copy()
        free = np.flatnonzero(~self.certain)
        order = free[np.argsort(self._costs[free], kind="stable")]
        costs = self._costs[order].tolist()
        # Subsets by growing cost: each comes from one parent, by adding the next item or trading the last for it.
        heap: list[tuple[float, tuple[int, ...]]] = [(costs[0], (0,))] if costs and costs[0] <= self._remaining else []
        while heap:
            cost, flips = heapq.heappop(heap)
            labels = self.nearest.copy()
            labels[order[list(flips)]] ^= True
            yield labels
            last = flips[-1]
            if last + 1 < len(costs):
                for more, after in (
                    (cost + costs[last + 1], (*flips, last + 1)),
                    (cost - costs[last] + costs[last + 1], (*flips[:-1], last + 1)),
                ):
                    if more <= self._remaining:
                        heapq.heappush(heap, (more, after))

    def count(self, limit: int = 10_000) -> int:
        """How many sets there are, `limit` if there are as many or more."""
        count = 0
        for _ in self:
            count += 1
            if count >= limit:
                break
        return count


class LabelPowerset(NamedTuple):
    """A calibrated threshold on label sets' distance: `tau`, and each label's weight (L,)."""

    tau: float
    weights: Float64

    def sets(self, scores: ArrayLike) -> LabelSets:
        """The believable label sets of one response's scores (L,) in [0, 1]."""
        values = np.asarray(scores, np.float64)
        if values.shape != self.weights.shape or not ((values >= 0) & (values <= 1)).all():
            raise CalibrationError(f"a response needs {len(self.weights)} scores in [0, 1], one a label")
        return LabelSets(values, self.weights, self.tau)


def calibrate_label_sets(
    scores: ArrayLike, labels: ArrayLike, alpha: float, weights: ArrayLike | None = None
) -> LabelPowerset:
    """From scores (n, L) in [0, 1] and the true label sets (n, L) of responses not fitted on.

    `weights` (L,), 0 or more, from other data, such as the inverse of each label's mean error there; 1 each unless
    given. Raises CalibrationError when n is too small for alpha.

        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.random((500, 3)) < 0.3
        >>> scores = np.clip(labels + rng.normal(scale=0.1, size=(500, 3)), 0, 1)
        >>> sets = calibrate_label_sets(scores, labels, alpha=0.1)
        >>> [found.astype(int).tolist() for found in sets.sets([0.95, 0.02, 0.03])]
        [[1, 0, 0]]
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if values.ndim != 2 or values.shape != truth.shape or not ((values >= 0) & (values <= 1)).all():
        raise CalibrationError(f"scores (n, L) in [0, 1] and label sets (n, L) are needed, not {values.shape}")
    w = np.ones(values.shape[1]) if weights is None else np.asarray(weights, np.float64)
    if w.shape != values.shape[1:] or (w < 0).any():
        raise CalibrationError(f"there must be {values.shape[1]} weights, 0 or more")
    return LabelPowerset(threshold((w * np.abs(values - truth)).sum(axis=1), alpha), w)
