"""Isotonic regression by pooling adjacent violators, also with one more response at every place at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def isotonic(total: Float64, weight: Float64) -> Float64:
    """The increasing fit (K,) of least squares to K points with these sums (K,) and weights (K,) > 0."""
    starts = _blocks(total, weight)
    fit = np.empty(len(total))
    end = len(total)
    at = len(total) - 1
    while end > 0:
        start = int(starts[at])
        fit[start:end] = total[start:end].sum() / weight[start:end].sum()
        end, at = start, start - 1
    return fit


def isotonic_with_one_more(total: Float64, weight: Float64, label: float) -> Float64:
    """The fit at the place of one more response of this label (weight 1), for every place it can have: (2K+1,).

    Place 2i is before point i, place 2i+1 at point i, place 2K after the last. The fits of all points before a place
    and of all points after it are known from two passes; the response's own block then swallows neighbours of both
    until the fit rises again.
    """
    points = len(total)
    before = _blocks(total, weight)  # the last block of the fit to points 0..i starts at before[i]
    after = _blocks(-total[::-1], weight[::-1])  # the same from the other end, where the fit falls
    sums, weights = np.concatenate([[0.0], np.cumsum(total)]), np.concatenate([[0.0], np.cumsum(weight)])
    fit = np.empty(2 * points + 1)
    for place in range(2 * points + 1):
        first, last = place // 2, (place + 1) // 2  # its own block: no point, or the one it is at
        label_sum, mass = label + sums[last] - sums[first], 1 + weights[last] - weights[first]
        while True:
            if first > 0:
                start = int(before[first - 1])
                s, w = sums[first] - sums[start], weights[first] - weights[start]
                if s * mass >= label_sum * w:
                    label_sum, mass, first = label_sum + s, mass + w, start
                    continue
            if last < points:
                end = points - int(after[points - 1 - last])
                s, w = sums[end] - sums[last], weights[end] - weights[last]
                if s * mass <= label_sum * w:
                    label_sum, mass, last = label_sum + s, mass + w, end
                    continue
            break
        fit[place] = label_sum / mass
    return fit


def _blocks(total: Float64, weight: Float64) -> NDArray[np.intp]:
    """For each i, where the last block of the increasing fit to points 0..i starts."""
    starts = np.empty(len(total), np.intp)
    sums, weights = np.empty(len(total)), np.empty(len(total))  # of that block
    for i in range(len(total)):
        start, s, w = i, float(total[i]), float(weight[i])
        while start > 0 and sums[start - 1] * w >= s * weights[start - 1]:
            s, w, start = s + sums[start - 1], w + weights[start - 1], int(starts[start - 1])
        starts[i], sums[i], weights[i] = start, s, w
    return starts
