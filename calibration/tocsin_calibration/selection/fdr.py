"""Releasing a batch with a bounded share of bad ones: conformal selection.

Calibration responses are labelled good or bad. With g(x) a score of badness (higher = worse), a new response j gets

    p_j = (#{bad i: g_i < g_j} + U (1 + #{bad i: g_i = g_j})) / (n + 1),

small when few bad responses looked as good, among all n labelled ones; Benjamini-Hochberg at q releases those whose p
is small enough together (Jin and Candès 2023, arXiv:2210.01408, with good responses clipped to infinity).

Guarantee: if labelled and new responses are exchangeable, at most a share q of the released are bad, in expectation
(FDR <= q).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


def selection_pvalues(scores: ArrayLike, good: ArrayLike, new: ArrayLike, u: ArrayLike | None = None) -> Float64:
    """P-values (m,) of "this response is bad" from labelled scores (n,), labels (n,) and new scores (m,).

    `u` (m,) in (0, 1) breaks ties exactly; without it ties count against the response.

        >>> import numpy as np
        >>> scores = np.linspace(0, 1, 99)
        >>> selection_pvalues(scores, scores < 0.5, [0.0, 1.0]).round(2).tolist()
        [0.01, 0.5]
    """
    values, fine = np.asarray(scores, np.float64), np.asarray(good, bool)
    if values.ndim != 1 or values.shape != fine.shape or not len(values):
        raise CalibrationError(f"labelled scores and labels must be two lists of one length, not {values.shape}")
    bad, tested = np.sort(values[~fine]), np.asarray(new, np.float64)
    below = np.searchsorted(bad, tested, side="left")
    tied = np.searchsorted(bad, tested, side="right") - below
    share = 1.0 if u is None else np.asarray(u, np.float64)
    return np.asarray((below + share * (1 + tied)) / (len(values) + 1.0), np.float64)


def benjamini_hochberg(pvalues: ArrayLike, q: float) -> Mask:
    """Which hypotheses (m,) are rejected at FDR q: the k smallest p-values for the largest k with p_(k) <= q k / m.

    >>> benjamini_hochberg([0.01, 0.02, 0.2, 0.9], q=0.1).tolist()
    [True, True, False, False]
    """
    if not 0 < q < 1:
        raise CalibrationError(f"the FDR must lie strictly between 0 and 1, not {q}")
    p = np.asarray(pvalues, np.float64)
    m = len(p)
    ordered = np.sort(p)
    passed = np.flatnonzero(ordered <= q * np.arange(1, m + 1) / m * (1 + 1e-12))
    if not len(passed):
        return np.zeros(m, bool)
    return np.asarray(p <= ordered[passed[-1]], bool)


def conformal_selection(
    scores: ArrayLike, good: ArrayLike, new: ArrayLike, q: float, u: ArrayLike | None = None
) -> Mask:
    """Which new responses (m,) to release so that at most a share q of them is bad, in expectation.

    >>> import numpy as np
    >>> scores = np.linspace(0, 1, 200)
    >>> good = scores < 0.5
    >>> conformal_selection(scores, good, [0.01, 0.9], q=0.1).tolist()
    [True, False]
    """
    return benjamini_hochberg(selection_pvalues(scores, good, new, u), q)
