"""Histograms that are cheap to add to: values wait in a list and are counted many at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.samples import Exemplar

FOLD = 1024  # values that wait before they are counted


class Histogram:
    """Counts of values by bucket, one row of counts a series; values wait in a list and are counted many at a time.

    `bounds` are the upper bounds of each series' buckets.
    """

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sums", "_waiting")

    def __init__(self, *bounds: Iterable[float]) -> None:
        self._bounds = [np.asarray(list(series), np.float64) for series in bounds]
        self._counts = [np.zeros(len(series) + 1, np.int64) for series in self._bounds]
        self._sums = np.zeros(len(self._bounds))
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
        """Remember the trace of a value in its bucket of the only series."""
        bucket = int(np.searchsorted(self._bounds[0], value, side="left"))
        self._exemplars[bucket] = Exemplar({"trace_id": trace}, value, time.time())

    def _fold(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        columns = np.vstack(waiting).T if len(self._bounds) > 1 else [np.asarray(waiting, np.float64).ravel()]
        for i, (bounds, column) in enumerate(zip(self._bounds, columns, strict=True)):
            found = np.searchsorted(bounds, column, side="left")
            self._counts[i] += np.bincount(found, minlength=len(bounds) + 1)
            self._sums[i] += float(np.sum(column, dtype=np.float64))

    def figures(self) -> list[dict[str, list[Any]]]:
        """Each series' bounds and counts, the last count of what is beyond all bounds."""
        self._fold()
        return [{"bounds": b.tolist(), "counts": c.tolist()} for b, c in zip(self._bounds, self._counts, strict=True)]

    def quantile(self, share: float) -> float | None:
        """The bound below which that share of the only series lies; None where nothing was counted, or beyond all."""
        self._fold()
        counts, bounds = self._counts[0], self._bounds[0]
        total = int(counts.sum())
        if not total:
            return None
        at = int(np.searchsorted(np.cumsum(counts), share * total, side="left"))
        return float(bounds[at]) if at < len(bounds) else None

    def take(self) -> list[tuple[list[int], float]]:
        """What was counted of each series since this was last asked: counts by bucket, and the sum."""
        self._fold()
        taken = [(counts.tolist(), float(total)) for counts, total in zip(self._counts, self._sums, strict=True)]
        for counts in self._counts:
            counts[:] = 0
        self._sums[:] = 0
        return taken

    def absorb(self, taken: Sequence[tuple[Sequence[int], float]]) -> None:
        """Count what another histogram of the same bounds has counted."""
        for i, (counts, total) in enumerate(taken):
            self._counts[i] += np.asarray(counts, np.int64)
            self._sums[i] += total

    def into(self, family: HistogramMetricFamily, labels: list[list[str]]) -> None:
        """Add each series to a family, under its labels."""
        self._fold()
        for series, own in enumerate(labels):
            buckets: list[Any] = []
            for i, total in enumerate(np.cumsum(self._counts[series]).tolist()):
                bound = f"{self._bounds[series][i]:.6g}" if i < len(self._bounds[series]) else "+Inf"
                exemplar = self._exemplars.get(i)
                buckets.append((bound, total, exemplar) if exemplar else (bound, total))
            family.add_metric(own, buckets, float(self._sums[series]))
