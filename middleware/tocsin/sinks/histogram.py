"""Histograms that are cheap to add to: values wait in a list and are counted many at a time."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import ceil, log2
from typing import Any, Final

import numpy as np
from prometheus_client.samples import Exemplar

from tocsin.sinks.families import Buckets

FOLD: Final = 1024  # values that wait before they are counted
SMALL_BATCH: Final = 48  # up to here plain Python is quicker than numpy's calls
BUCKETS_PER_DOUBLING: Final = 8  # buckets of a native histogram for each doubling: index i holds (2^((i-1)/8), 2^(i/8)]
ZERO_INDEX: Final = -1 << 20  # the index of what is 0 or less


class Histogram:
    """Counts of values by bucket, one row of counts for each series. Values wait in a list and are counted many at a
    time.

    `bounds` are the upper bounds of each series' buckets. `native`: the only series is counted in exponential buckets
    too, those of Prometheus' native histograms.
    """

    __slots__ = ("_bounds", "_counts", "_exemplars", "_native", "_sums", "_texts", "_waiting")

    def __init__(self, *bounds: Iterable[float], native: bool = False) -> None:
        self._native: Counter[int] | None = Counter() if native else None
        self._bounds = [[float(bound) for bound in series] for series in bounds]
        self._texts = [[f"{bound:.6g}" for bound in series] for series in self._bounds]
        self._counts = [[0] * (len(series) + 1) for series in self._bounds]
        self._sums = [0.0] * len(self._bounds)
        self._exemplars: dict[int, Exemplar] = {}
        self._waiting: list[Any] = []

    def add(self, value: Any) -> None:
        """Count one value; with several series, an array (rows, series)."""
        self._waiting.append(value)
        if len(self._waiting) >= FOLD:
            self._fold()

    def extend(self, values: Sequence[float]) -> None:
        """Count several values of the only series."""
        self._waiting += values
        if len(self._waiting) >= FOLD:
            self._fold()

    def exemplar(self, value: float, trace: str) -> None:
        """Remember a trace as the exemplar of a value's bucket, in the only series."""
        bucket = bisect_left(self._bounds[0], value)
        self._exemplars[bucket] = Exemplar({"trace_id": trace}, value, time.time())

    def _fold(self) -> None:
        """Add the values that wait to the counts, all at once."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        columns: list[Any]
        if isinstance(waiting[0], np.ndarray):
            rows = np.vstack(waiting)
            columns = rows.T.tolist() if len(rows) <= SMALL_BATCH else list(rows.T)
        else:
            columns = [waiting if len(waiting) <= SMALL_BATCH else np.asarray(waiting, np.float64)]
        if self._native is not None:
            self._native.update(_indices(columns[0]))
        for i, column in enumerate(columns):
            counts = self._counts[i]
            if isinstance(column, list):
                for value in column:
                    counts[bisect_left(self._bounds[i], value)] += 1
                self._sums[i] += sum(column, start=0.0)
                continue
            counts_here = np.bincount(np.searchsorted(self._bounds[i], column, side="left"), minlength=len(counts))
            self._counts[i] = [had + came for had, came in zip(counts, counts_here.tolist(), strict=True)]
            self._sums[i] += float(np.sum(column, dtype=np.float64))

    def figures(self) -> list[dict[str, list[Any]]]:
        """The bounds and counts of each series; the last count is of values beyond all bounds."""
        self._fold()
        return [{"bounds": b, "counts": list(c)} for b, c in zip(self._bounds, self._counts, strict=True)]

    def quantile(self, share: float) -> float | None:
        """The bound below which that share of the only series lies; None where nothing was counted, or beyond all."""
        self._fold()
        counts, bounds = self._counts[0], self._bounds[0]
        total = sum(counts)
        if not total:
            return None
        at = bisect_left(list(accumulate(counts)), share * total)
        return bounds[at] if at < len(bounds) else None

    def take_delta(self) -> list[tuple[list[int], float, list[list[int]]]]:
        """What was counted of each series since the last call: counts by bucket, sum, and native counts as pairs."""
        self._fold()
        native = [list(pair) for pair in (self._native or {}).items()]
        delta = [(counts, total, native) for counts, total in zip(self._counts, self._sums, strict=True)]
        if self._native is not None:
            self._native = Counter()
        self._counts = [[0] * len(counts) for counts in self._counts]
        self._sums = [0.0] * len(self._sums)
        return delta

    def merge(self, delta: Sequence[Sequence[Any]]) -> None:
        """Add what another histogram with the same bounds has counted: the result of its `take_delta`, or the same from
        JSON.
        """
        for i, (counts, total, native) in enumerate(delta):
            if self._native is not None:
                for index, count in native:
                    self._native[index] += count
            self._counts[i] = [had + came for had, came in zip(self._counts[i], counts, strict=True)]
            self._sums[i] += total

    def buckets(self) -> list[Buckets]:
        """The cumulative counts of each series, as they are shown: a copy that later counting does not change."""
        self._fold()
        native = None if self._native is None else dict(self._native)
        return [
            Buckets(bounds, list(accumulate(counts)), total, dict(self._exemplars), native)
            for bounds, counts, total in zip(self._texts, self._counts, self._sums, strict=True)
        ]


def _indices(values: Any) -> list[int]:
    """The native bucket of each value."""
    if isinstance(values, list):
        return [ceil(log2(value) * BUCKETS_PER_DOUBLING) if value > 0 else ZERO_INDEX for value in values]
    positive = values > 0
    indices = np.full(len(values), ZERO_INDEX)
    indices[positive] = np.ceil(np.log2(values[positive]) * BUCKETS_PER_DOUBLING)
    return indices.astype(int).tolist()
