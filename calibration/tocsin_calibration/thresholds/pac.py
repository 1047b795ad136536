"""PAC calibration: a false-alarm rate that holds for this very calibration set, with stated confidence.

Guarantee: over the draw of n calibration scores, P(false-alarm rate <= alpha) >= 1 - delta. The marginal rule of
`split` promises alpha on average over calibration sets, and about half of them exceed it; this one promises it for
yours, with confidence 1 - delta (training-conditional validity, Vovk 2012, arXiv:1209.2673).

The rate of the threshold s_(k) is Beta(n+1-k, k), and P(Beta(n+1-k, k) <= alpha) = P(Binomial(n, alpha) > n-k), so k
is n - j for the largest j with P(Binomial(n, alpha) <= j) <= delta. With ties the rate is only smaller.
"""

from __future__ import annotations

from math import ceil, log, log1p

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.binomial import binomial_cdf
from tocsin_calibration.thresholds.split import exact


def required_size_pac(alpha: float, delta: float) -> int:
    """The smallest n for which some threshold keeps alpha with confidence 1 - delta: (1-alpha)^n <= delta."""
    _check(delta)
    n = ceil(log(delta) / log1p(-float(exact(alpha))))
    while binomial_cdf(0, n, alpha) > delta:
        n += 1
    return n


def rank_pac(n: int, alpha: float, delta: float) -> int:
    """k such that the k-th smallest of n calibration scores keeps alpha with confidence 1 - delta.

    Raises CalibrationError when n is too small for any, telling how many are needed.
    """
    needed = required_size_pac(alpha, delta)
    if n < needed:
        raise CalibrationError(
            f"{n} calibration scores cannot keep alpha = {alpha:g} with confidence {1 - delta:g}: at least {needed} "
            f"are needed, or a larger alpha, or less confidence"
        )
    low, high = 0, n  # binomial_cdf(low) <= delta < binomial_cdf(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_cdf(middle, n, alpha) <= delta else (low, middle)
    return n - low


def _check(delta: float) -> None:
    if not 0 < delta < 1:
        raise CalibrationError(f"the confidence must lie strictly between 0 and 1, not {1 - delta:g}")
