"""Counting very many calibration scores: exact thresholds in one look at each, in memory that does not grow with them.

Three things are kept of the scores seen: how many fell between given edges, the `EXACT` largest, and those that lie in
a few narrow brackets. Edges and brackets come from a sample that was drawn before: the k-th smallest of n scores lies
between two order statistics of the sample, eight standard deviations apart on either side, but for a chance of 1e-14.
Where it does not, `ordered` says between which edges it lies, and one more look finds it. Counts, largest and bracketed
scores of parts of the data are joined by `merge`, in any order, to the same result: parts can be counted anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, floor, inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.ordered import EXACT, Ordered

Float64 = NDArray[np.float64]
Counted = tuple[Float64, NDArray[np.intp]]  # distinct scores, and how often each came
DEVIATIONS = 8  # of a sample's rank, to either side of where a rank of all scores is expected


class Bracket(NamedTuple):
    """An open interval of scores; its ends are edges, or infinite."""

    low: float
    high: float


class NotBracketedError(CalibrationError):
    """A rank lies in none of the brackets; `brackets` are those that hold the ranks."""

    def __init__(self, brackets: list[Bracket]) -> None:
        super().__init__("a threshold lies outside of where the sample expects it")
        self.brackets = brackets


class RankCounts:
    """Counts scores between edges (m,), ascending, keeping the `exact` largest, and all in `brackets`."""

    def __init__(self, edges: Float64, brackets: Sequence[Bracket] = (), *, exact: int = EXACT) -> None:
        self.edges, self.brackets, self.exact = np.unique(edges), tuple(brackets), exact
        self.n = 0
        self._counts = np.zeros(len(self.edges) + 1, np.int64)  # the i-th: edges[i-1] < score <= edges[i]
        self._waiting: list[Float64] = []  # the largest so far, and some that may be
        self._largest_seen, self._lowest = 0, -inf
        self._bracketed: list[list[Counted]] = [[] for _ in self.brackets]

    def add(self, scores: Float64) -> None:
        """Take in scores (k,), all finite."""
        self.n += len(scores)
        self._counts += np.bincount(np.searchsorted(self.edges, scores), minlength=len(self._counts))
        self._keep_largest(scores)
        for bracketed, (low, high) in zip(self._bracketed, self.brackets, strict=True):
            bracketed.append(np.unique(scores[(low < scores) & (scores < high)], return_counts=True))

    def merge(self, other: RankCounts) -> None:
        """Take in what another has counted, with the same edges and brackets."""
        if not np.array_equal(self.edges, other.edges) or self.brackets != other.brackets or self.exact != other.exact:
            raise CalibrationError("only counts between the same edges can be merged")
        self.n += other.n
        self._counts += other._counts
        for scores in other._waiting:
            self._keep_largest(scores)
        for bracketed, more in zip(self._bracketed, other._bracketed, strict=True):
            bracketed.extend(more)

    def ordered(self, ranks: Iterable[int]) -> Ordered:
        """The scores in order, those at `ranks` (from 1) exactly. Raises NotBracketedError when they are not found."""
        self._sift()
        largest = np.sort(self._waiting[0])
        if self.n <= self.exact:
            return Ordered(largest, self.n)
        edges, cumulative_counts = self._edges_below(largest[0]), {}
        missing: list[Bracket] = []
        for k in ranks:
            if k > self.n - self.exact:
                continue
            value, count = self._at_rank(k) or (None, 0)
            if value is None:
                missing.append(self._between(k))
            elif value < largest[0]:
                cumulative_counts[value] = count
        if missing:
            raise NotBracketedError(missing)
        cumulative_counts.update(edges)
        values, last = np.unique(largest[::-1], return_index=True)
        cumulative_counts.update(zip(values.tolist(), (self.n - last).tolist(), strict=True))
        distinct, counts = np.array(sorted(cumulative_counts.items())).T
        rises = np.diff(counts, prepend=0) > 0  # an edge right above a score says nothing more
        return Ordered.from_counts(distinct[rises], counts[rises].astype(np.int64))

    def _keep_largest(self, scores: Float64) -> None:
        if self._lowest > -inf:
            scores = scores[scores > self._lowest]
        self._waiting.append(scores)
        self._largest_seen += len(scores)
        if self._largest_seen > 2 * self.exact:
            self._sift()

    def _sift(self) -> None:
        every = np.concatenate(self._waiting)
        if len(every) > self.exact:
            every = np.partition(every, len(every) - self.exact)[-self.exact :].copy()
            self._lowest = float(every.min())
        self._waiting, self._largest_seen = [every], len(every)

    def _edges_below(self, limit: float) -> dict[float, int]:
        """Edges that some score has reached, with how many scores lie at or below each."""
        cumulative_counts = np.cumsum(self._counts)[:-1]
        rises = np.diff(cumulative_counts, prepend=0) > 0
        use = rises & (self.edges < limit)
        return dict(zip(self.edges[use].tolist(), cumulative_counts[use].tolist(), strict=True))

    def _at_rank(self, k: int) -> tuple[float, int] | None:
        """The k-th smallest score and how many lie at or below it, if a bracket tells."""
        for bracketed, (low, high) in zip(self._bracketed, self.brackets, strict=True):
            before, until = self._cumulative_count(low), self._cumulative_count(high)
            if not before < k <= until:
                continue
            values = np.concatenate([values for values, _ in bracketed])
            order = np.argsort(values)
            cumulative_counts = before + np.cumsum(np.concatenate([counts for _, counts in bracketed])[order])
            at = int(np.searchsorted(cumulative_counts, k))
            if at == len(cumulative_counts):
                return high, until
            value = values[order[at]]
            last = int(np.searchsorted(values[order], value, side="right")) - 1
            return float(value), int(cumulative_counts[last])
        return None

    def _cumulative_count(self, edge: float) -> int:
        if edge == -inf:
            return 0
        return int(self._counts[: int(np.searchsorted(self.edges, edge)) + 1].sum()) if edge < inf else self.n

    def _between(self, k: int) -> Bracket:
        at = int(np.searchsorted(np.cumsum(self._counts), k))
        low = self.edges[at - 1] if at > 0 else -inf
        return Bracket(float(low), float(self.edges[at]) if at < len(self.edges) else inf)


def expected_brackets(sample: Float64, n: int, ranks: Iterable[int], *, exact: int = EXACT) -> list[Bracket]:
    """Where a sample (a,) expects the scores at `ranks` of n others to lie; nowhere for those among the largest."""
    ordered, a = np.sort(sample), len(sample)
    distinct = np.unique(ordered)
    brackets = []
    for k in ranks:
        if k > n - exact:
            continue
        q = k / (n + 1)
        off = DEVIATIONS * sqrt(a * q * (1 - q) * (1 + a / n)) + 2
        low, high = floor(a * q - off), ceil(a * q + off)
        below = int(np.searchsorted(distinct, ordered[low - 1])) - 1 if low >= 1 else -1  # so that ties lie inside
        brackets.append(
            Bracket(float(distinct[below]) if below >= 0 else -inf, float(ordered[high - 1]) if high <= a else inf)
        )
    return list(dict.fromkeys(brackets))
