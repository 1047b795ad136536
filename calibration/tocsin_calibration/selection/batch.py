"""Batch predictive inference: what the next m safe responses will do, together.

The ranks of m new scores among n + m exchangeable ones are a uniform random subset, whatever the scores' law. So

    P(exactly c of n calibration scores lie below the j-th smallest new one) = C(c+j-1, j-1) C(n-c+m-j, m-j) / C(n+m,
    m),

and any function of the next batch's order statistics is bounded by calibration order statistics, exactly and without
simulation. (How many of the next m alarm: `FalseAlarmLaw.at_most`.)
"""

from __future__ import annotations

from functools import lru_cache
from math import lgamma

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.split import exact, sorted_scores

Float64 = NDArray[np.float64]


def below_order_statistic(n: int, m: int, j: int) -> Float64:
    """P(exactly c calibration scores lie below the j-th smallest of m new ones) for c = 0..n."""
    if not 1 <= j <= m:
        raise CalibrationError(f"of {m} new scores there is no {j}-th smallest")
    logs = [
        _log_choose(c + j - 1, j - 1) + _log_choose(n - c + m - j, m - j) - _log_choose(n + m, m) for c in range(n + 1)
    ]
    return np.asarray(np.exp(np.array(logs)), np.float64)


def order_statistic_bound(calibration: ArrayLike, m: int, j: int, alpha: float) -> float:
    """A bound that the j-th smallest of the next m safe scores exceeds with probability at most alpha.

    j = m bounds the largest, j = (m+1)/2 the median of an odd batch. +inf when n is too small for any other.

        >>> import numpy as np
        >>> round(float(order_statistic_bound(np.linspace(0, 1, 999), m=1, j=1, alpha=0.05)), 2)
        0.95
    """
    ordered = sorted_scores(calibration)
    cdf = np.cumsum(below_order_statistic(len(ordered), m, j))
    c = int(np.searchsorted(cdf, 1 - float(exact(alpha)) - 1e-12))  # at most c lie below it with probability 1 - alpha
    return float(ordered[c]) if c < len(ordered) else float("inf")


def mean_bound(calibration: ArrayLike, m: int, alpha: float, largest: float) -> float:
    """A bound that the mean of the next m safe scores exceeds with probability at most alpha.

    `largest`: no score can exceed it. The rank sum of the batch, an ordering fixed in advance, exceeds its (1-alpha)
    quantile with probability at most alpha (Mann-Whitney's law); below it, the mean is at most what the worst split of
    that rank sum over the batch allows, each score at most the next calibration score above it. Both by dynamic
    programming, O(m^2 n^2 / 2) at worst: meant for n m up to some 20,000.

        >>> import numpy as np
        >>> round(mean_bound(np.linspace(0, 1, 500), m=50, alpha=0.05, largest=1.0), 2)
        0.57
    """
    ordered = sorted_scores(calibration)
    n = len(ordered)
    if m < 1 or largest < ordered[-1]:
        raise CalibrationError("a batch has at least one score, and `largest` is no less than any calibration score")
    if n * m > 50_000:
        raise CalibrationError(f"{n} calibration scores and a batch of {m} are too many for this bound; take fewer")
    cdf = np.cumsum(_mann_whitney(n, m))
    budget = int(
        np.searchsorted(cdf, 1 - float(exact(alpha)) - 1e-12)
    )  # calibration scores below, over all of the batch
    worth = np.append(ordered, largest)  # of a new score with c calibration scores below
    best = np.zeros(budget + 1)
    for _ in range(m):
        wider = np.full(budget + 1, -np.inf)
        for c in range(min(n, budget) + 1):
            np.maximum(wider[c:], best[: budget + 1 - c] + worth[c], out=wider[c:])
        best = wider
    return float(best.max() / m)


@lru_cache(maxsize=16)  # a law of two sizes, at most half a megabyte, asked for with every batch
def _mann_whitney(n: int, m: int) -> Float64:
    """P(U = u), u = 0..nm: of pairs of a new and a calibration score, in how many the calibration one is smaller."""
    # p[i] is the law for i calibration scores and the present number of new ones; the largest of all is either.
    p = [np.ones(1) for _ in range(n + 1)]
    for new in range(1, m + 1):
        q = [np.ones(1)]
        for i in range(1, n + 1):
            law = np.zeros(i * new + 1)
            law[: len(q[i - 1])] += i / (i + new) * q[i - 1]
            law[i:] += new / (i + new) * p[i]
            q.append(law)
        p = q
    p[n].flags.writeable = False
    return p[n]


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
