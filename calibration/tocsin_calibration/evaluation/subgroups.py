"""How evenly something holds over subgroups: a good mean may hide a bad corner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]
BANDWIDTH = 0.1  # a subgroup ten points off the mean counts 1/e
POINTS = 20


class SubgroupCurve(NamedTuple):
    """One subgroup while the threshold moves: what is served overall, and the loss among served, overall and here.

    `correlation`: of the two losses over thresholds (Pearson), NaN where one does not move. Far below 1, what helps the
    whole does not help this subgroup.
    """

    coverage: list[float]
    overall: list[float]
    here: list[float]
    correlation: float


def harmony(performance: ArrayLike) -> float:
    """Evenness of a performance in [0, 1] over k subgroups (k,), itself in [0, 1]; 1 = all alike, NaN for fewer than
    three: two lie equally far from their mean, and would be in harmony however much they differ.

    The normalised entropy of shares p_i proportional to exp(-((f_i - mean f) / 0.1)^2): subgroups far from the mean
    hardly count, and what is left is uneven (benchmark harmony; Uzunoglu et al. 2025, arXiv:2509.25671).
    """
    f = np.asarray(performance, np.float64)
    if len(f) < 3:
        return float("nan")
    kernel = np.exp(-(((f - f.mean()) / BANDWIDTH) ** 2))
    shares = kernel / kernel.sum()
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum() / np.log(len(f)))


def subgroup_curves(scores: ArrayLike, losses: ArrayLike, groups: Sequence[str]) -> Mapping[str, SubgroupCurve]:
    """Each subgroup's curve, from scores (n,), higher = worse, losses (n,) and group names (n,)."""
    values, lost, names = np.asarray(scores, np.float64), np.asarray(losses, np.float64), np.asarray(groups, str)
    if not len(values) == len(lost) == len(names) or not len(values):
        raise CalibrationError("scores, losses and groups must be lists of one length")
    thresholds = np.quantile(values, np.linspace(0, 1, POINTS + 1)[1:])
    curves = {}
    for name in np.unique(names):
        in_group = names == name
        rows = []
        for threshold in thresholds:
            served = values <= threshold
            if (served & in_group).any():
                rows.append((served.mean(), lost[served].mean(), lost[served & in_group].mean()))
        coverage, overall, here = np.array(rows).T
        moves = len(rows) > 2 and np.ptp(overall) > 0 and np.ptp(here) > 0
        correlation = float(np.corrcoef(overall, here)[0, 1]) if moves else float("nan")
        curves[str(name)] = SubgroupCurve(coverage.tolist(), overall.tolist(), here.tolist(), correlation)
    return curves
