"""Split conformal calibration: the order statistic that keeps a false-alarm rate.

Guarantee: if the n calibration scores and a new score are exchangeable, then P(new score > threshold) <= alpha,
and >= alpha - 1/(n+1) when scores do not tie (Vovk, Gammerman and Shafer 2005; Lei et al. 2018).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError


def exact(alpha: float) -> Fraction:
    """alpha as the decimal number a person wrote, so that ranks never suffer from binary rounding.

    Raises CalibrationError unless 0 < alpha < 1.
    """
    if not 0 < alpha < 1:
        raise CalibrationError(f"alpha must lie strictly between 0 and 1, not {alpha}")
    return Fraction(repr(float(alpha)))


def required_size(alpha: float) -> int:
    """The smallest n whose threshold is finite: ceil(1/alpha) - 1.

    >>> required_size(0.01)
    99
    """
    level = exact(alpha)
    return -(-level.denominator // level.numerator) - 1


def rank(n: int, alpha: float) -> int:
    """k = ceil((n+1)(1-alpha)): the threshold is the k-th smallest calibration score.

    Raises CalibrationError when k > n, telling how many scores are needed.
    """
    k = n + 1 - int((n + 1) * exact(alpha))
    if k > n:
        raise CalibrationError(
            f"{n} calibration scores cannot keep alpha = {alpha:g}: at least {required_size(alpha)} are needed, or a "
            f"larger alpha"
        )
    return k


def threshold(scores: ArrayLike, alpha: float) -> float:
    """The k-th smallest of the calibration scores (n,); an alarm is a score strictly above it.

    >>> import numpy as np
    >>> float(threshold(np.arange(1.0, 100), alpha=0.05))
    95.0
    """
    ordered = sorted_scores(scores)
    return float(ordered[rank(len(ordered), alpha) - 1])


def pvalues(calibration: NDArray[np.float64], scores: ArrayLike) -> NDArray[np.float64]:
    """p = (1 + #{i: s_i >= s}) / (n+1) for each score (m,) against sorted calibration scores (n,), in (0, 1].

    P(p <= alpha) <= alpha for exchangeable scores, and p <= alpha exactly when the score exceeds `threshold`.

        >>> import numpy as np
        >>> pvalues(np.array([1.0, 2, 3, 4]), [0.0, 2.5, 9.0]).tolist()
        [1.0, 0.6, 0.2]
    """
    n = len(calibration)
    below = np.searchsorted(calibration, np.asarray(scores, np.float64), side="left")
    return np.asarray((1.0 + (n - below)) / (n + 1.0), np.float64)


def sorted_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Calibration scores (n,), sorted. Raises CalibrationError on NaN, infinities, another shape, or none."""
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not values.size:
        raise CalibrationError(f"calibration needs a non-empty list of scores, not an array of shape {values.shape}")
    if not np.isfinite(values).all():
        broken = int((~np.isfinite(values)).sum())
        raise CalibrationError(f"{broken} of {len(values)} calibration scores are NaN or infinite; leave them out")
    return np.sort(values)
