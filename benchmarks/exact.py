"""Judging counts by the exact law that they obey, never by a tolerance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from tocsin_calibration import FalseAlarmLaw

Pmf = NDArray[np.float64]


def total_of(laws: Sequence[tuple[FalseAlarmLaw, int]]) -> Pmf:
    """The law of all alarms together: of independent calibration sets, and how many safe responses each one judged."""
    by_kind: dict[tuple[FalseAlarmLaw, int], int] = {}
    for kind in laws:
        by_kind[kind] = by_kind.get(kind, 0) + 1
    total: Pmf = np.ones(1)
    for (law, m), times in by_kind.items():
        power, base = np.ones(1), law.count_pmf(m)
        while times:
            if times & 1:
                power = _sum(power, base)
            times >>= 1
            if times:
                base = _sum(base, base)
        total = _sum(total, power)
    return np.asarray(total / total.sum())


def _sum(a: Pmf, b: Pmf) -> Pmf:
    """The law of a sum; by FFT where that is long, exact to about 1e-15."""
    if len(a) * len(b) < 1e7:
        return np.convolve(a, b)
    return np.asarray(np.clip(fftconvolve(a, b), 0, None))


def too_many(pmf: Pmf, count: int) -> float:
    """The probability of `count` or more."""
    return float(pmf[count:].sum())


def too_few(pmf: Pmf, count: int) -> float:
    """The probability of `count` or fewer."""
    return float(pmf[: count + 1].sum())
