"""Claims about what is seen in recordings: what is there, and how seldom anything is seen where nothing is."""

from __future__ import annotations

from itertools import product
from math import exp, factorial, log

import numpy as np
import pytest
from numpy.typing import NDArray

from tocsin_calibration.evaluation import exchangeability
from tocsin_calibration.evaluation.exchangeability import alike, copies, dependence, drift
from tocsin_calibration.thresholds.binomial import binomial_quantile

Floats = NDArray[np.float64]
RUNS, SURE = 200, 1 - 1e-4


def scores(rows: int, seed: int, columns: int = 2) -> Floats:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def test_copies_are_seen_also_where_some_rows_were_taken_for_fitting() -> None:
    recording = scores(800, 1)
    for times in (2, 3, 5):
        (finding,) = [copies(np.tile(recording, (times, 1)))]
        assert finding is not None and finding.times == times and finding.log_evalue > log(1e6)
        assert finding.repeated == pytest.approx(1 - 1 / times)
    remaining = np.tile(recording, (3, 1))[np.random.default_rng(2).random(2400) < 0.7]
    finding = copies(remaining)
    assert finding is not None and finding.log_evalue > log(1e6)
    finding = copies(np.r_[recording, recording[:300]])
    assert finding is not None and finding.log_evalue > log(2000)


def test_requests_that_callers_repeat_are_no_copies() -> None:
    """Draws from discrete laws: the mean of the e-value is at most 1, so few are large."""
    draw, logs = np.random.default_rng(3), []
    for run in range(400):
        values = int(draw.integers(2, 3_000))
        weights = [np.ones(values), 1 / np.arange(1, values + 1), draw.gamma(0.3, size=values) + 1e-12][run % 3]
        rows = draw.choice(values, int(draw.integers(40, 3_000)), p=weights / weights.sum())
        finding = copies(rows[:, None].astype(float))
        assert finding is not None
        logs.append(finding.log_evalue)
    assert sum(value >= log(20) for value in logs) <= binomial_quantile(SURE, 400, 1 / 20)
    assert copies(np.zeros((100, 2))).log_evalue <= 0 and copies(scores(100, 4)).log_evalue <= 0  # type: ignore[union-attr]


@pytest.mark.parametrize("times, mean", [(2, 0.5), (2, 2.0), (3, 3.0), (4, 4.5)])
def test_no_law_of_means_wins_on_average(times: int, mean: float) -> None:
    """All counts of a few values, each seen so often with the chances of a Poisson law: exact."""
    chances = np.array([mean**j / factorial(j) for j in (times - 1, times, times + 1)])
    chances /= chances.sum()
    values, total = 8, 0.0
    for fewer, exactly in product(range(values + 1), repeat=2):
        more = values - fewer - exactly
        if more >= 0:
            ways = factorial(values) / (factorial(fewer) * factorial(exactly) * factorial(more))
            probability = ways * chances[0] ** fewer * chances[1] ** exactly * chances[2] ** more
            total += probability * exp(exchangeability._log_copied(times, fewer, exactly, more))
    assert total <= 1 + 1e-12


def test_drift_is_seen_and_placed() -> None:
    recording = scores(2_000, 5)
    recording[1_500:, 1] += 1.0
    finding = drift(recording, 0.05)
    assert finding is not None and finding.log_evalue > log(1e6) and finding.column == 1
    assert finding.shares[3] > 0.1 > 0.05 > max(finding.shares[:3])
    calm = drift(scores(2_000, 6), 0.05)
    assert calm is not None and calm.log_evalue < log(20)
    assert np.mean(calm.shares) == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize("kind", ["continuous", "tied", "short"])
def test_drift_is_seldom_seen_where_there_is_none(kind: str) -> None:
    wrong = 0
    for run in range(RUNS):
        recording = scores(60 if kind == "short" else 400, 100 + run)
        finding = drift(np.round(recording) if kind == "tied" else recording, 0.05, seed=run)
        assert finding is not None
        wrong += finding.log_evalue >= log(10)
    assert wrong <= binomial_quantile(SURE, RUNS, 0.1)


def test_neighbours_that_are_alike_are_seen_with_what_they_are_worth() -> None:
    noise, course = scores(4_000, 7), np.zeros((4_000, 2))
    for t in range(1, len(course)):
        course[t] = 0.6 * course[t - 1] + noise[t]
    finding = dependence(course)
    assert finding is not None and finding.p_value == 1 / 1000 and 0.5 < finding.correlation < 0.7
    assert 3 < finding.rows_worth_one < 5.5  # (1 + 0.6) / (1 - 0.6) = 4 for the values themselves
    repeated = dependence(np.repeat(noise[:1000], 3, axis=0))
    assert repeated is not None and repeated.rows_worth_one == pytest.approx(3, rel=0.1)


def test_rows_of_one_session_are_alike() -> None:
    draw = np.random.default_rng(8)
    session = np.repeat(np.arange(200), 10)
    recording = scores(2_000, 9) + draw.normal(size=(200, 2))[session]
    order = draw.permutation(2_000)
    finding = alike(recording[order], [f"s{s}" for s in session[order]])
    assert finding is not None and finding.p_value == 1 / 1000 and 0.35 < finding.correlation < 0.65
    assert finding.rows_worth_one == pytest.approx(1 + 9 * finding.correlation)
    assert alike(recording, ["s"] * 2_000) is None and alike(recording, [str(at) for at in range(2_000)]) is None


@pytest.mark.parametrize("look", ["dependence", "alike"])
def test_rows_in_random_order_seldom_look_alike(look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchangeability, "ORDERS", 99)
    wrong = 0
    for run in range(RUNS):
        recording = np.round(scores(80, 500 + run), 1)
        labels = [str(at % 16) for at in range(80)]
        finding = dependence(recording, run) if look == "dependence" else alike(recording, labels, run)
        assert finding is not None
        wrong += finding.p_value <= 0.1
    assert wrong <= binomial_quantile(SURE, RUNS, 0.1)


def test_of_few_rows_nothing_is_said() -> None:
    few = scores(39, 10)
    assert (
        copies(few) is None
        and drift(few, 0.05) is None
        and dependence(few) is None
        and alike(few, ["a", "b"] * 20) is None
    )
