"""Claims about AUROC's interval: it holds the truth as often as it says, up to where scores hardly overlap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from tocsin_detectors.separation import auroc, auroc_interval

FAILURE, RUNS = 1e-4, 300


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.5, 3.5])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (200, 30)])
def test_the_interval_covers_the_truth(distance: float, n: int, m: int) -> None:
    random, true, covered = np.random.default_rng([41, n]), norm.cdf(distance / 2**0.5), 0
    for _ in range(RUNS):
        low, high = auroc_interval(random.normal(size=n), random.normal(distance, 1, m))
        covered += low <= true <= high
    assert binom.cdf(covered, RUNS, 0.95) > FAILURE / 9


@pytest.mark.long
def test_resampling_does_not_near_one() -> None:
    random, true, covered = np.random.default_rng(42), norm.cdf(3.5 / 2**0.5), 0
    for _ in range(150):
        safe, shifted = random.normal(size=40), random.normal(3.5, 1, 40)
        drawn = [auroc(random.choice(safe, 40), random.choice(shifted, 40)) for _ in range(100)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        covered += low <= true <= high
    assert binom.cdf(covered, 150, 0.95) < FAILURE


def test_scores_that_do_not_overlap_leave_room_for_chance() -> None:
    low, high = auroc_interval(np.arange(20.0), np.arange(20.0) + 50)
    assert 0.8 < low < 1 == high
    assert auroc_interval(np.arange(2_000.0), np.arange(2_000.0) + 1e4)[0] > 0.998
    assert auroc_interval(np.zeros(9), np.ones(1))[0] < 0.5
