"""Conformal selection with the score chosen on the same data (OptCS; Bai and Jin 2024, arXiv:2411.17983).

Picking, among K scores, the one that releases most and then testing with it breaks the FDR promise: the choice has seen
the answers. OptCS chooses for each new response j by what would be released if j were as good as can be, which does not
look at where j stands among the calibration scores; then e-values instead of p-values carry the promise through.

Guarantee: FDR <= q for exchangeable labelled and new responses, whatever the K scores.

Done naively it is quadratic in the number m of new responses; here ranks are sorted once a score and each |R_jk| is
looked up, O(K (n + m) log(n + m)).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


def optimised_selection(scores: ArrayLike, good: ArrayLike, new: ArrayLike, q: float, u: float | None = None) -> Mask:
    """Which new responses (m,) to release, from labelled scores (n, K), labels (n,) and new scores (m, K).

    Scores are of badness, higher = worse. `u` in (0, 1), drawn independently of the data, releases more at the same FDR
    (e-values divided by it).

        >>> import numpy as np
        >>> scores = np.linspace(0, 1, 200)[:, None]
        >>> good = scores[:, 0] < 0.5
        >>> optimised_selection(scores, good, [[0.01], [0.9]], q=0.1).tolist()
        [True, False]
    """
    values, fine, tested = np.asarray(scores, np.float64), np.asarray(good, bool), np.asarray(new, np.float64)
    if values.ndim != 2 or tested.ndim != 2 or values.shape[1] != tested.shape[1] or len(values) != len(fine):
        raise CalibrationError(
            f"labelled scores (n, K), labels (n,) and new scores (m, K) do not fit: {values.shape}, {fine.shape}, "
            f"{tested.shape}"
        )
    if not 0 < q < 1 or (u is not None and not 0 < u < 1):
        raise CalibrationError("the FDR and u must lie strictly between 0 and 1")
    m = len(tested)
    if not m:
        return np.zeros(0, bool)
    sizes, pvalues = zip(*(_released_if_best(values[~fine, k], len(values), tested[:, k], q)
                           for k in range(values.shape[1])), strict=True)  # fmt: skip
    chosen = np.argmax(np.stack(sizes), axis=0)
    rows = np.arange(m)
    size, p = np.stack(sizes)[chosen, rows], np.stack(pvalues)[chosen, rows]
    level = q * size / m
    evalues = np.where(p <= level * (1 + 1e-12), 1 / level, 0.0)
    return _e_benjamini_hochberg(evalues if u is None else evalues / u, q)


def _released_if_best(bad: Float64, n: int, tested: Float64, q: float) -> tuple[NDArray[np.intp], Float64]:
    """For each j, how many are released when j's p-value is 0 and the others' are as if j were a calibration response;
    and j's own p-value.
    """
    m = len(tested)
    order = np.argsort(tested, kind="stable")
    ordered = tested[order]
    counts = np.searchsorted(np.sort(bad), ordered, side="right")
    rank = np.arange(m)
    limit = q / m * (n + 1) * (1 + 1e-12)
    # Others before j keep their count and move up one rank; those after (or tied) gain one in count and keep theirs.
    before = np.where(counts <= limit * (rank + 2), rank, -1)
    after = np.where(counts + 1 <= limit * (rank + 1), rank, -1)
    last_before = np.maximum.accumulate(before)
    last_after = np.maximum.accumulate(after[::-1])[::-1]
    first = np.searchsorted(ordered, ordered, side="left")  # j counts as the first of those it ties with
    later = np.where(first + 1 < m, last_after[np.minimum(first + 1, m - 1)], -1)
    earlier = np.where(first > 0, last_before[np.maximum(first - 1, 0)], -1)
    size = np.where(later > first, later + 1, np.where(earlier >= 0, earlier + 2, 1))
    sizes, pvalues = np.empty(m, np.intp), np.empty(m)
    sizes[order] = size
    pvalues[order] = (counts + 1) / (n + 1)
    return sizes, pvalues


def _e_benjamini_hochberg(evalues: Float64, q: float) -> Mask:
    """The k largest e-values for the largest k with e_(k) >= m / (q k) (Wang and Ramdas 2022)."""
    m = len(evalues)
    ordered = np.sort(evalues)[::-1]
    passed = np.flatnonzero(ordered * np.arange(1, m + 1) >= m / q * (1 - 1e-9))
    if not len(passed):
        return np.zeros(m, bool)
    return np.asarray(evalues >= ordered[passed[-1]], bool)
