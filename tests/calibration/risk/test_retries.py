"""Claims about retries and cascades behind an imperfect verifier, against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_calibration import CalibrationError, Stage, Verifier, plan_cascade, plan_retries
from tocsin_calibration.risk.retries import correlation_of

rates = st.floats(0.01, 0.99)


@given(rates, rates, rates, st.floats(0, 3), st.floats(0, 3), st.floats(0, 0.5))
def test_independent_tries_follow_the_closed_form(
    p: float, t: float, f: float, gain: float, loss: float, cost: float
) -> None:
    plan = plan_retries(p, Verifier(t, f), gain=gain, loss=loss, cost=cost, max_tries=12)
    a = p * t + (1 - p) * f
    v = p * t * gain - (1 - p) * f * loss - cost
    k = np.arange(1, 13)
    assert plan.values == pytest.approx(v * (1 - (1 - a) ** k) / a, abs=1e-9)
    assert plan.served == pytest.approx(1 - (1 - a) ** k, abs=1e-9)
    assert plan.accuracies == pytest.approx([p * t / a] * 12) and plan.ceiling == pytest.approx(p * t / a)
    assert plan.tries == 0 if v <= 0 else plan.tries > 0


def simulated(
    stages: list[Stage], verifier: Verifier, correlation: float, gain: float, loss: float
) -> tuple[float, float]:
    random = np.random.default_rng(1)
    prompts, size = 400_000, 1 / correlation - 1
    p = random.beta(stages[0].accuracy * size, (1 - stages[0].accuracy) * size, prompts)
    waiting, value, good, served = np.ones(prompts, bool), 0.0, 0, 0
    for stage in stages:
        right = random.random(prompts) < p
        passed = waiting & (random.random(prompts) < np.where(right, verifier.passes_right, verifier.passes_wrong))
        value += gain * (passed & right).sum() - loss * (passed & ~right).sum() - stage.cost * waiting.sum()
        good, served = good + int((passed & right).sum()), served + int(passed.sum())
        waiting &= ~passed
    return value / prompts, good / served


@pytest.mark.parametrize("correlation", [0.1, 0.5, 0.9])
def test_correlated_tries_are_worth_what_a_simulation_earns(correlation: float) -> None:
    verifier = Verifier(0.9, 0.2)
    plan = plan_retries(0.6, verifier, gain=1, loss=2, cost=0.05, correlation=correlation, max_tries=5)
    value, accuracy = simulated([Stage(0.6, 0.05)] * 5, verifier, correlation, 1, 2)
    assert plan.values[4] == pytest.approx(value, abs=0.01)
    assert plan.accuracies[4] == pytest.approx(accuracy, abs=0.005)


def test_with_correlation_the_best_number_is_finite_and_more_tries_serve_worse() -> None:
    verifier = Verifier(0.95, 0.3)
    endless = plan_retries(0.6, verifier, loss=1, cost=0.01, max_tries=8)
    finite = plan_retries(0.6, verifier, loss=1, cost=0.01, correlation=0.4, max_tries=30)
    assert endless.endless and endless.tries == 8
    assert not finite.endless and 0 < finite.tries < 10
    assert finite.accuracies == sorted(finite.accuracies, reverse=True)
    assert max(finite.accuracies) <= finite.ceiling + 1e-9


def test_no_number_of_tries_helps_where_the_first_costs_more_than_it_earns() -> None:
    assert plan_retries(0.3, Verifier(0.9, 0.5), loss=5).tries == 0


def test_a_cascade_asks_the_dearer_model_only_when_it_pays() -> None:
    verifier = Verifier(0.9, 0.1)
    both = plan_cascade([Stage(0.6, 0.01), Stage(0.9, 0.3)], verifier)
    assert both.tries == 2 and both.values[1] > both.values[0]
    assert plan_cascade([Stage(0.6, 0.01), Stage(0.9, 1.0)], verifier).tries == 1
    assert both.ceiling == pytest.approx(0.9 * 0.9 / (0.9 * 0.9 + 0.1 * 0.1))


def test_the_correlation_is_found_again_from_repeated_answers() -> None:
    random = np.random.default_rng(2)
    p = random.beta(0.6 * 2, 0.4 * 2, 3_000)  # 1 / (a + b + 1) = 1/3
    assert correlation_of(random.random((3_000, 4)) < p[:, None]) == pytest.approx(1 / 3, abs=0.04)
    assert correlation_of(random.random((3_000, 4)) < 0.6) == pytest.approx(0, abs=0.03)
    assert correlation_of([[True, True], [True, True]]) == 0
    with pytest.raises(CalibrationError, match="at least two prompts"):
        correlation_of([[True], [False]])


@pytest.mark.parametrize(
    "call",
    [
        lambda: Verifier(1.1, 0),
        lambda: plan_retries(1.5, Verifier(1, 0)),
        lambda: plan_retries(0.5, Verifier(1, 0), cost=-1),
        lambda: plan_retries(0.5, Verifier(1, 0), max_tries=0),
        lambda: plan_retries(0.5, Verifier(1, 0), correlation=1),
        lambda: plan_cascade([], Verifier(1, 0)),
    ],
)
def test_impossible_plans_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CalibrationError):
        call()
