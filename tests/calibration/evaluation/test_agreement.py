"""Claims about Krippendorff's alpha, held to a published example and to its definition."""

from __future__ import annotations

from itertools import permutations
from math import isnan, nan

import numpy as np
import pytest

from tocsin_calibration.evaluation.agreement import RatingSums, added, rating_sums

# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section C: four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
    [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
]


def sums_of(raters: list[list[float]]) -> list[RatingSums]:
    return [rating_sums([rating for rating in item if not isnan(rating)]) for item in zip(*raters, strict=True)]


def test_the_published_example_has_its_published_alpha() -> None:
    sums = added(sums_of(OBSERVERS))
    assert round(sums.alpha, 3) == 0.849
    assert (sums.items, sums.ratings) == (11, 40)  # the twelfth unit was rated once


def test_alpha_is_one_minus_the_disagreement_seen_over_that_expected() -> None:
    ratings = np.random.default_rng(3).normal(size=(3, 25))
    within = np.mean([(a - b) ** 2 for item in ratings.T for a, b in permutations(item, 2)])
    among_all = np.mean([(a - b) ** 2 for a, b in permutations(ratings.ravel(), 2)])
    assert added(sums_of(ratings.tolist())).alpha == pytest.approx(1 - within / among_all)


def test_sums_of_groups_add_up_to_those_of_all() -> None:
    sums = sums_of(OBSERVERS)
    assert added([added(sums[:5]), added(sums[5:])]) == pytest.approx(added(sums))


@pytest.mark.parametrize(
    ("raters", "alpha"),
    [([[1, 2, 3], [1, 2, 3]], 1.0), ([[1, 2], [2, 1]], -0.5), ([[4, 4], [4, 4]], nan), ([[1], [nan]], nan)],
)
def test_agreement_contradiction_and_nothing_to_tell(raters: list[list[float]], alpha: float) -> None:
    assert added(sums_of(raters)).alpha == pytest.approx(alpha, nan_ok=True)
