"""The alternatives to a ratio of two rates that a test of it bets on, and how their e-values are mixed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Direction = Literal["above", "below"]  # of the alternative, as seen from the null
HIGHEST = 0.95  # rate of an alternative
# Multiples of the null's ratio that alternatives lie above it, or below, and how much each is trusted beforehand.
FACTORS = ((1.25, 0.1), (1.5, 0.2), (2.0, 0.3), (3.0, 0.2), (5.0, 0.1), (8.0, 0.1))
# Of a test that the ratio is below the named excess: ratios, most of the trust where the two rates are the same.
AS_GOOD = ((1.0, 0.5), (0.8, 0.2), (0.5, 0.2), (0.2, 0.1))


def alternatives(ratio: float, direction: Direction, highest: float) -> tuple[Floats, list[float]]:
    """Trust (J,), which sums to 1, and the ratios of the alternatives to a null, those up to `highest`.

    Below a null of more than 1 most of the trust is on 1: that the two are alike.
    """
    if direction == "above":
        pairs = [(ratio * factor, trust) for factor, trust in FACTORS]
    elif ratio > 1:
        pairs = [(other, trust) for other, trust in AS_GOOD]
    else:
        pairs = [(ratio / factor, trust) for factor, trust in FACTORS]
    possible = [(other, trust) for other, trust in pairs if other <= highest]
    if not possible:
        possible = [((ratio + highest) / 2 if ratio < highest else ratio, 1.0)]  # the null itself: no bet
    trust = np.array([share for _, share in possible])
    return trust / trust.sum(), [other for other, _ in possible]


def log_mixture(trust: Floats, logs: Floats) -> Floats:
    """log of the e-process (T,) after each batch, from increments (J, T)."""
    sums = np.cumsum(logs, axis=1) + np.log(trust)[:, None]
    result: Floats = np.logaddexp.reduce(sums, axis=0)
    return result
