"""The p-value of one score, quickly.

A search among ten thousand calibration scores is a dozen comparisons, each a coin toss to the processor. But between
two neighbouring calibration scores all p-values are the same; so the range of the scores is cut into many equally wide
cells, and most cells hold no calibration score, hence one p-value, which is looked up. Only the others search. The
cell of a score is found by the same arithmetic for calibration scores and new ones, which never decreases, so the
result is that of the full search, to the bit."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable
from math import isfinite, nan
from typing import Final

import numpy as np
from numpy.typing import NDArray

CELLS: Final = 16  # a calibration score
MOST_CELLS: Final = 1 << 18  # two megabytes
COVERED: Final = 0.99  # of the calibration scores: a few far ones would make cells too wide for the many


def pvalue_lookup(
    ordered: NDArray[np.float64], cumulative_counts: NDArray[np.int64] | None = None
) -> Callable[[float], float]:
    """p(s) = (1 + #{i: s_i >= s}) / (n+1) against sorted, finite calibration scores (n,), or against some of n with
    the numbers `cumulative_counts` of those at or below each."""
    if cumulative_counts is not None:
        scores, n = array("d", ordered.tolist()), int(cumulative_counts[-1])
        by_rank = array("d", ((1.0 + (n - np.append(0, cumulative_counts))) / (n + 1.0)).tolist())
        return lambda score: by_rank[bisect_left(scores, score)]
    scores, gaps = array("d", ordered.tolist()), float(len(ordered) + 1)
    lowest, highest = scores[0], scores[int(COVERED * (len(scores) - 1))]
    count = min(CELLS * len(scores), MOST_CELLS)
    width = highest - lowest
    scale = (count - 1) / width if width > 0 else 0.0
    if not (scale > 0 and isfinite(scale) and isfinite(width)):
        return lambda score: (gaps - bisect_left(scores, score)) / gaps
    cells = ((ordered[ordered <= highest] - lowest) * scale).astype(np.intp)
    below = np.searchsorted(cells, np.arange(count))
    below_share = (gaps - below) / gaps
    below_share[cells] = nan  # these hold calibration scores
    table = array("d", below_share.tolist())

    def pvalue(score: float) -> float:
        if lowest < score <= highest:
            p: float = table[int((score - lowest) * scale)]
            if p == p:  # no NaN
                return p
        return (gaps - bisect_left(scores, score)) / gaps

    return pvalue
