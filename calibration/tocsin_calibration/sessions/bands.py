"""A time-varying band: how far above the usual course of a session is too far.

Some sessions are never calm at the start, or always rise at the end; a constant threshold is then too high for the
rest. The band follows the mean course m(t) of one half of the safe sessions, and widens where they differ, A(t). How
many such widths are allowed is conformalised on the other half (FAIL-Detect, arXiv:2503.08558; functional conformal
bands, Diquigiovanni et al. 2021, arXiv:2102.06746).

Guarantee: with D = max_t (s(t) - m(t)) / A(t) of each session of the second half, the threshold m(t) + h A(t), h the
split-conformal quantile of D, is crossed anywhere in at most a share alpha of the sessions exchangeable with them.
(Two mistakes are in print: an interpolated quantile for h, and D with its sign reversed. Both break the promise.)

Sessions may differ in length: m and A at step t come from the sessions that reached it, and beyond the longest they
keep their last values. That is a fixed function once the first half is drawn, so the promise holds all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]
LEAST_SPREAD = 0.05  # of the median spread: where few sessions differ at a step by chance, the band does not close


class Band(NamedTuple):
    """The usual course (T,) and how much sessions differ from it (T,), > 0."""

    centre: Float64
    spread: Float64

    @classmethod
    def of(cls, courses: Sequence[Float64], alpha: float) -> Band:
        """From safe sessions' windowed scores, a course (T_i,) each. Raises CalibrationError on fewer than two.

        A share alpha of the sessions, those that leave the mean course farthest, does not widen the band.
        """
        if len(courses) < 2:
            raise CalibrationError(f"a band needs at least two safe sessions to learn its course, not {len(courses)}")
        table = np.full((len(courses), max(map(len, courses))), np.nan)
        for row, course in zip(table, courses, strict=True):
            row[: len(course)] = course
        centre = np.nanmean(table, axis=0)
        away = np.abs(table - centre)
        farthest = np.nanmax(away, axis=1)
        within = farthest <= np.sort(farthest)[min(len(farthest), int(np.ceil((len(farthest) + 1) * (1 - alpha)))) - 1]
        spread = np.array([np.nanmax(np.append(step[within], 0.0)) for step in away.T])
        usual = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
        return cls(centre, np.maximum(spread, LEAST_SPREAD * usual))

    def beyond(self, courses: Float64, start: int = 0) -> Float64:
        """(s(t) - m(t)) / A(t) of a course (T,) that begins at step `start`."""
        steps = np.minimum(np.arange(start, start + len(courses)), len(self.centre) - 1)
        return np.asarray((courses - self.centre[steps]) / self.spread[steps])
