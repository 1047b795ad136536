"""From samples of counters to counts of batches: what came between two ends of a batch, by what was scraped.

A target is one process that is scraped. Its counters are read together, at the same moment, as one row; rows follow
each other in time. A counter that falls has begun anew at 0 with a new process. A target counts from the first end of a
batch on at which it is there; what came before is left out, and so is what came over a gap, because the other version's
responses of that time are in other batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LOOKBACK = 300.0  # seconds for which a sample stands for its counter, as in Prometheus

Floats = NDArray[np.float64]


class CounterSample(NamedTuple):
    """A target's counters at one moment (Unix seconds); `began` is when its process did, where that is exported."""

    at: float
    counts: tuple[float, ...]
    began: float | None = None


@dataclass
class Batches:
    """Counts (T, K) of batches, and what became of the samples: for people to judge whether something is missing."""

    counts: Floats
    targets: int = 0
    last: float | None = None  # the moment of the newest row
    first: float | None = None  # and of the oldest
    resets: int = 0
    gaps: int = 0


def in_batches(
    targets: Mapping[Any, Sequence[CounterSample]], start: float, end: float, every: float, columns: int
) -> Batches:
    """The counts of batches that end after `start` and up to `end`, at multiples of `every` seconds.

    A batch that has not ended is left for the next look, so that every look sees the same batches.
    """
    first, last = floor_to(start, every), floor_to(end, every)
    number = max(0, round((last - first) / every))
    result = Batches(np.zeros((number, columns)), len(targets))
    longest = max(LOOKBACK, every)
    for rows in targets.values():
        before: CounterSample | None = None
        counts_from = 0.0
        for row in rows:
            result.first = row.at if result.first is None else min(result.first, row.at)
            result.last = row.at if result.last is None else max(result.last, row.at)
            is_gap = before is not None and row.at - before.at > longest
            result.gaps += is_gap
            if before is None or is_gap:
                counts_from = ceil(row.at / every) * every
            else:
                counts, anew = increase(before, row)
                result.resets += anew
                at = ceil((row.at - first) / every) - 1
                if row.at > counts_from and 0 <= at < number:
                    result.counts[at] += counts
            before = row
    return result


def floor_to(moment: float, every: float) -> float:
    """The last multiple of `every` up to a moment."""
    return float(moment // every * every)


def increase(before: CounterSample, row: CounterSample) -> tuple[list[float], bool]:
    """What was counted between two rows, and whether the process restarted in between."""
    anew = any(now < then for now, then in zip(row.counts, before.counts, strict=True)) or (
        row.began is not None and before.began is not None and row.began - before.began > 1
    )
    if anew:
        return list(row.counts), True
    return [now - then for now, then in zip(row.counts, before.counts, strict=True)], False
