"""Claims about parts of safe traffic: none is called high by chance, those that are high are found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from tocsin_calibration import CalibrationError
from tocsin_calibration.evaluation.conditional import BINS, LEVEL, conditional, worst_slab

FAILURE = 1e-4


@pytest.mark.long
def test_no_part_is_called_high_and_intervals_hold_at_once_but_by_a_chance_of_one_in_a_hundred() -> None:
    random = np.random.default_rng(2)
    runs = 60
    high = missed = 0
    for run in range(runs):
        rates = np.array([0.05, 0.03, 0.01])
        kind = random.integers(3, size=400)
        alarmed = random.random(400) < rates[kind]
        parts = conditional(alarmed, 0.05, {"class": kind.tolist()}, random.normal(size=(400, 3)), seed=run)
        high += any(part.word == "high" for part in parts)
        missed += any(not part.low <= rates[int(part.name)] <= part.high for part in parts if part.kind == "class")
    for events in (high, missed):
        assert binom.sf(events - 1, runs, LEVEL) > FAILURE / 2


def test_a_class_that_alarms_more_is_found_beside_others_and_in_a_slab() -> None:
    random = np.random.default_rng(3)
    inputs = random.normal(size=(4_000, 2))
    worse = inputs[:, 0] > 1
    alarmed = random.random(4_000) < np.where(worse, 0.3, 0.01)
    columns = {"class": np.where(worse, "rare", "usual").tolist(), "length": inputs[:, 0].tolist()}
    parts = {(part.kind, part.name): part for part in conditional(alarmed, 0.05, columns, inputs)}
    assert parts["class", "rare"].word == "high" and parts["class", "usual"].word == ""
    assert sum(kind == "length" for kind, _ in parts) == BINS
    (slab,) = (part for (kind, _), part in parts.items() if kind == "slab")
    assert slab.word == "high" and slab.rate > 3 * alarmed.mean()


@pytest.mark.long
def test_the_slab_is_measured_on_the_half_that_it_was_not_searched_on() -> None:
    """Noise alone: on the half searched the worst slab of many alarms far more often than all do, measured it does not.

    By the binomial law of independent alarms, of which the search knows nothing.
    """
    random = np.random.default_rng(4)
    n = alarms = 0
    for seed in range(30):
        _, inside, caught = worst_slab(random.random(600) < 0.05, random.normal(size=(600, 5)), seed)
        n, alarms = n + inside, alarms + caught
    assert binom.cdf(alarms, n, 0.05) > FAILURE / 2 and binom.sf(alarms - 1, n, 0.05) > FAILURE / 2


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(CalibrationError, match="values of class"):
        conditional([True], 0.05, {"class": []})
    with pytest.raises(CalibrationError, match="rows of inputs"):
        conditional([True], 0.05, {}, np.zeros((2, 2)))
