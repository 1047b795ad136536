"""Claims about intraclass correlations, held to the published example."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest

from tocsin_calibration.evaluation.intraclass import RaterSums, added_raters, rater_sums

# Shrout and Fleiss (1979), table 2: four ratings on six targets.
TARGETS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def sums_of(items: list[list[float]]) -> RaterSums:
    return added_raters(rater_sums(item) for item in items)


def test_the_published_example_has_its_published_correlation() -> None:
    assert round(sums_of(TARGETS).agreement, 2) == 0.29


def test_a_stricter_rater_lowers_agreement() -> None:
    ratings = np.random.default_rng(5).normal(size=20)
    assert sums_of([[rating, rating - 1.0] for rating in ratings]).agreement < 0.8
    assert sums_of([[rating, rating] for rating in ratings]).agreement == pytest.approx(1)


def test_sums_of_groups_add_up_to_those_of_all() -> None:
    assert added_raters([sums_of(TARGETS[:2]), RaterSums(), sums_of(TARGETS[2:])]) == sums_of(TARGETS)
    with pytest.raises(ValueError):
        added_raters([sums_of(TARGETS), rater_sums([1, 2])])


@pytest.mark.parametrize("items", [[], [[1, 2]], [[4, 4], [4, 4]], [[1], [2]]])
def test_where_nothing_can_be_told_a_correlation_is_nan(items: list[list[float]]) -> None:
    assert isnan(sums_of(items).agreement)
