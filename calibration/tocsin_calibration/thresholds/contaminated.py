"""Calibration on traffic of which some was not safe: what still holds, and what it takes to keep the promise.

Among n calibration scores at most m belong to bad responses, which ones is unknown, and their scores may be anything.
The n - m safe ones are exchangeable with the next safe response.

Guarantee: the alarm rate on safe traffic of the threshold s_(k) lies between (n-m+1-k)/(n-m+1), when all bad scores
lie above the threshold, and (n+1-k)/(n-m+1), when all lie below. So the usual k promises at most about
alpha/(1-m/n) whatever the bad responses looked like, and at most alpha when they score higher than safe ones, as
they should; what suffers then is what is caught. `rank_contaminated` keeps alpha even in the worst case.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.split import exact


class Bounds(NamedTuple):
    """The false-alarm rate when all bad scores lie above the threshold, and when all lie below it."""

    low: float
    high: float


def bad_among(n: int, share: float) -> int:
    """How many of n calibration responses are bad at most, when a share of them is."""
    if not 0 <= share < 1:
        raise CalibrationError(f"the share of bad calibration responses must lie in [0, 1), not {share}")
    return ceil(n * exact(share)) if share else 0


def false_alarm_bounds(n: int, k: int, bad: int) -> Bounds:
    """Between which rates safe traffic alarms at s_(k), with `bad` of the n calibration scores arbitrary.

    >>> bounds = false_alarm_bounds(n=1_000, k=960, bad=10)
    >>> [round(float(rate), 3) for rate in bounds]
    [0.031, 0.041]
    """
    safe = n - bad
    return Bounds(max(0.0, (safe + 1 - k) / (safe + 1)), min(1.0, (n + 1 - k) / (safe + 1)))


def rank_contaminated(n: int, alpha: float, share: float) -> int:
    """The smallest k whose s_(k) keeps alpha although a share of the calibration responses is bad, whatever they score.

    Raises CalibrationError when no threshold does, telling how many responses are needed.
    """
    k = _rank(n, alpha, share)
    if k > n:
        raise CalibrationError(
            f"{n} calibration scores, {share:.2%} of them bad, cannot keep alpha = {alpha:g}: at least "
            f"{required_size_contaminated(alpha, share)} are needed, or a larger alpha"
        )
    return k


def required_size_contaminated(alpha: float, share: float) -> int:
    """The smallest n whose threshold is finite."""
    n = int((1 / exact(alpha) - 1) / (1 - exact(share) if share else 1))
    while _rank(n, alpha, share) > n:
        n += 1
    return n


def _rank(n: int, alpha: float, share: float) -> int:
    return n + 1 - int(exact(alpha) * (n - bad_among(n, share) + 1))
