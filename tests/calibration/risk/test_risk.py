"""Claims about what answers are worth, and what is guaranteed about serving them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from scipy.stats import binom
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from tocsin_calibration import (
    CalibrationError,
    Costs,
    FalseAlarmLaw,
    Isotonic,
    Platt,
    Temperature,
    VennAbers,
    conformal_risk_control,
    distributional_correctness,
    expected_dcs,
    fit_risk_policy,
    learn_then_test,
    sgr,
    ternary,
    worth,
)
from tocsin_calibration.risk.correctness import WAYS
from tocsin_calibration.risk.dcs import Loads
from tocsin_calibration.risk.decision import RiskPolicy
from tocsin_calibration.risk.selective import hoeffding_bentkus

FAILURE = 1e-4
labelled = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=40)


def answers(random: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and whether answers were right: less often the higher the score."""
    scores = random.random(size)
    return scores, random.random(size) > scores**2


def test_dcs_is_the_published_formula_and_full_abstention_earns_nothing() -> None:
    probs = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0]]
    values = distributional_correctness(probs, [0, 0, 0], idk=2)
    assert values == pytest.approx([(0.7 - 0.2) * 0.9, (0.1 - 0.6) * 0.7, 0.0])
    loaded = distributional_correctness(probs, [0, 0, 0], idk=2, loads=Loads(2, 1))
    assert loaded[0] == pytest.approx((2 * 0.7 - 0.2) * 0.9)
    assert distributional_correctness([[1.0, 0.0]], [1], idk=None).tolist() == [-1]
    assert ternary([True, False, True], [False, False, True], Loads(2, 3)).tolist() == [2, -3, 0]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 5), st.floats(0, 5))
def test_expected_dcs_lies_in_its_range_and_is_the_mean_over_truths(
    p: float, idk: float, right: float, wrong: float
) -> None:
    if right + wrong == 0:
        return
    loads = Loads(right, wrong)
    expected = float(expected_dcs([p], [idk], loads)[0])
    assert -wrong - 1e-9 <= expected <= right + 1e-9
    probs = [[1 - idk, 0.0, idk]]
    truths = [distributional_correctness(probs, [truth], 2, loads)[0] for truth in (0, 1)]
    assert expected == pytest.approx(p * truths[0] + (1 - p) * truths[1], abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distributional_correctness([[0.5, 0.6]], [0], None), "sum to 1"),
        (lambda: distributional_correctness([[0.5, 0.5]], [2], None), r"labels must lie in 0\.\.1"),
        (lambda: distributional_correctness([[0.5, 0.5]], [1], 1), "cannot be the right answer"),
        (lambda: Loads(0, 0), "not both 0"),
        (lambda: Costs(review_costs=-1), "a review costs 0 or more"),
    ],
)
def test_impossible_answers_and_loads_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CalibrationError, match=message):
        call()


@given(labelled)
def test_isotonic_is_scikit_learns(pairs: list[tuple[int, bool]]) -> None:
    scores, right = np.array([float(s) for s, _ in pairs]), np.array([r for _, r in pairs])
    theirs = IsotonicRegression(increasing=False, out_of_bounds="clip").fit(scores, right)
    new = np.linspace(-1, 13, 57)
    np.testing.assert_allclose(Isotonic.fit(scores, right)(new), theirs.predict(new), atol=1e-9)


@pytest.mark.long
@hypothesis_settings(deadline=None)
@given(labelled)
def test_venn_abers_is_two_isotonic_fits_with_the_new_response_at_every_place(pairs: list[tuple[int, bool]]) -> None:
    scores, right = np.array([float(s) for s, _ in pairs]), np.array([float(r) for _, r in pairs])
    predictor = VennAbers.fit(scores, right)
    new = np.arange(-0.5, 13, 0.5)
    low, high = predictor.interval(new)
    for at, score in enumerate(new):
        for label, bound in ((0.0, low), (1.0, high)):
            places, tied = np.unique(np.append(scores, score), return_inverse=True)  # what ties is one place
            sizes = np.bincount(tied)
            means = np.bincount(tied, np.append(right, label)) / sizes
            fit = isotonic_regression(means, weights=sizes, increasing=False).x
            assert bound[at] == pytest.approx(fit[np.searchsorted(places, score)], abs=1e-9)
    assert (low <= high + 1e-12).all()


def test_platt_and_temperature_are_the_likelihoods_best() -> None:
    random = np.random.default_rng(1)
    scores, right = answers(random, 4_000)
    fitted = Platt.fit(scores, right)
    theirs = LogisticRegression(C=1e9, max_iter=1_000).fit(-scores[:, None], right)
    assert fitted.slope == pytest.approx(theirs.coef_[0, 0], rel=0.01)
    confidence = 1 / (1 + np.exp(-random.normal(size=8_000) * 3))
    truly = random.random(8_000) < 1 / (1 + np.exp(-np.log(confidence / (1 - confidence)) / 2))
    assert Temperature.fit(1 - confidence, truly).temperature == pytest.approx(2, rel=0.1)
    with pytest.raises(CalibrationError, match=r"needs scores in \[0, 1\]"):
        Temperature.fit([2.0, 3.0], [True, False])


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_falling_probabilities_that_come_back_from_their_arrays(way: str) -> None:
    random = np.random.default_rng(2)
    scores, right = answers(random, 500)
    fitted = WAYS[way].fit(scores, right)
    new = np.linspace(0, 1, 200)
    probabilities = fitted(new)
    assert (np.diff(probabilities) <= 1e-12).all() and probabilities.min() >= 0 and probabilities.max() <= 1
    np.testing.assert_array_equal(WAYS[way].from_arrays(fitted.arrays())(new), probabilities)
    assert WAYS[way].fit([0.2, 0.8], [False, True])  # worse scores for better answers: no error
    with pytest.raises(CalibrationError):
        WAYS[way].fit([1.0, np.nan], [True, False])


def test_venn_abers_is_calibrated_where_a_small_sample_misleads_isotonic() -> None:
    random = np.random.default_rng(3)
    gaps = {"venn_abers": 0.0, "isotonic": 0.0}
    runs = 300
    for _ in range(runs):
        scores, right = answers(random, 40)
        new, truth = answers(random, 200)
        for name in gaps:
            p = WAYS[name].fit(scores, right)(new)
            loss = -np.log(np.clip(np.where(truth, p, 1 - p), 1e-12, 1)).mean()
            gaps[name] += loss / runs
    assert gaps["venn_abers"] < 0.75 * gaps["isotonic"]


def test_the_decision_is_the_one_of_largest_expected_value() -> None:
    random = np.random.default_rng(4)
    scores, right = answers(random, 5_000)
    idk = random.random(5_000) * 0.3
    policy = fit_risk_policy(np.stack([scores, idk], axis=1), right, idk=1)
    assert policy.column == 0 and 3_300 < policy.labelled < 3_400
    rows = np.stack([np.linspace(0, 1, 50), np.zeros(50)], axis=1)
    costs = Costs(1, 4)
    plain = policy.weigh(rows, costs)
    assert [d == "serve" for d in plain.decisions] == (plain.p_correct >= 4 / 5).tolist()
    reviewed = policy.weigh(rows, Costs(1, 4, review_costs=0.3))
    for p, served, decision in zip(reviewed.p_correct, reviewed.served, reviewed.decisions, strict=True):
        values = {"serve": served, "flag": p - 0.3, "abstain": 0.0}
        assert values[decision] == pytest.approx(max(values.values()))
    assert set(reviewed.decisions) == {"serve", "flag", "abstain"}
    unsure = policy.weigh([[0.0, 0.9]], costs)
    assert unsure.served[0] == pytest.approx(plain.served[0] * 0.01, rel=0.01)


def test_a_policy_comes_back_from_its_content_and_foreign_ones_are_refused() -> None:
    random = np.random.default_rng(5)
    scores, right = answers(random, 400)
    policy = fit_risk_policy(np.stack([random.random(400), scores], axis=1), right)
    assert policy.column == 1
    facts, arrays = policy.content()
    again = RiskPolicy.from_content(facts, arrays, 2)
    assert again.weigh([[0.3, 0.4]], Costs()) == policy.weigh([[0.3, 0.4]], Costs())
    for change, message in (
        ({"way": "magic"}, "unknown way"),
        ({"column": 7}, "another graph"),
        ({"column": "x"}, "garbles"),
    ):
        with pytest.raises(CalibrationError, match=message):
            RiskPolicy.from_content({**facts, **change}, arrays, 2)
    with pytest.raises(CalibrationError, match="both kinds"):
        fit_risk_policy(np.zeros((20, 1)), np.ones(20, bool))


def test_conformal_risk_control_keeps_the_risk_on_average_and_comes_near_the_best_coverage() -> None:
    random, risk = np.random.default_rng(6), 0.05
    runs = 400
    served, wrong = np.zeros(runs), np.zeros(runs)
    for run in range(runs):
        scores, right = answers(random, 2_000)
        control = conformal_risk_control(scores[:1_000], ~right[:1_000], risk)
        assert control.threshold is not None
        new, truth = scores[1_000:], right[1_000:]
        wrong[run] = ((new <= control.threshold) & ~truth).mean()
        served[run] = (new <= control.threshold).mean()
    exact = (3 * risk) ** (1 / 3)  # the risk of threshold t is the integral of s^2 to t
    assert wrong.mean() <= risk + 4 * wrong.std() / runs**0.5
    assert abs(served.mean() - exact) < 0.02


def served_risk(threshold: float) -> float:
    """The true error among served at a threshold: the mean of s^2 over [0, t]."""
    return min(threshold, 1.0) ** 2 / 3


@pytest.mark.long
@pytest.mark.parametrize("method", [learn_then_test, sgr])
def test_risk_among_served_exceeds_the_promise_as_rarely_as_promised(method) -> None:  # type: ignore[no-untyped-def]
    random, risk, delta = np.random.default_rng(7), 0.1, 0.1
    runs, exceeded, coverage = 400, 0, []
    for run in range(runs):
        scores, right = answers(random, 800)
        guarantee = method(scores, ~right, risk, delta, seed=run)
        if guarantee.threshold is not None:
            exceeded += served_risk(guarantee.threshold) > risk
            coverage.append(guarantee.coverage)
    assert binom.sf(exceeded - 1, runs, delta) > FAILURE
    assert len(coverage) > 0.9 * runs and np.median(coverage) > 0.35  # the best possible is 0.55


def test_the_threshold_that_looks_best_breaks_the_promise() -> None:
    random, risk = np.random.default_rng(8), 0.1
    exceeded = 0
    for _ in range(400):
        scores, right = answers(random, 800)
        order = np.argsort(scores)
        realised = np.cumsum(~right[order]) / np.arange(1, 801)
        exceeded += served_risk(scores[order][np.flatnonzero(realised <= risk)[-1]]) > risk
    assert binom.sf(exceeded - 1, 400, 0.1) < FAILURE


def test_no_threshold_is_an_answer() -> None:
    random = np.random.default_rng(9)
    scores = random.random(300)
    for method, size in ((conformal_risk_control, 18), (learn_then_test, 300), (sgr, 300)):
        guarantee = method(scores[:size], np.ones(size), 0.05)
        assert guarantee.threshold is None and guarantee.coverage == 0
        assert "no threshold reaches this risk" in str(guarantee)
        everything = method(scores, np.zeros(300), 0.05)
        assert everything.threshold == np.inf and everything.coverage == 1
    assert conformal_risk_control(scores[:18], np.zeros(18), 0.05).threshold is None  # too few to promise anything
    for wrong in (
        lambda: sgr(scores, scores, 0.1),
        lambda: learn_then_test(scores, scores, 0.1, 1.5),
        lambda: conformal_risk_control(scores, scores * 3, 0.1),
        lambda: sgr(scores, scores > 2, 0),
    ):
        with pytest.raises(CalibrationError):
            wrong()


@given(st.integers(5, 400), st.floats(0.02, 0.5), st.integers(0, 1_000))
def test_hoeffding_bentkus_pvalues_are_valid_at_the_null(n: int, risk: float, seed: int) -> None:
    counts = np.arange(n + 1)
    p = np.array([hoeffding_bentkus(c / n, n, risk) for c in counts])
    mass = binom.pmf(counts, n, risk)
    for level in (0.01, 0.1, 0.5):
        assert mass[p <= level].sum() <= level + 1e-9
    del seed


@pytest.mark.long
def test_a_days_counts_lie_within_their_ranges_as_often_as_is_said() -> None:
    """Each day with a calibration set and a measured power of its own; a range of rates holds too few counts."""
    random, days, failure_rate, power = np.random.default_rng(31), 400, 0.01, 0.8
    law, inside, by_rate = FalseAlarmLaw(49_999, 49_500), {"false_alarms": 0, "caught": 0, "missed": 0, "alarms": 0}, 0
    for _ in range(days):
        measured = int(random.binomial(300, power))
        forecast = worth(law, failure_rate, 10_000, measured, 300)
        failures = random.binomial(10_000, failure_rate)
        counts = {"caught": random.binomial(failures, power)}
        counts["missed"] = failures - counts["caught"]
        counts["false_alarms"] = random.binomial(10_000 - failures, random.beta(law.n + 1 - law.k, law.k))
        counts["alarms"] = counts["caught"] + counts["false_alarms"]
        for name, count in counts.items():
            estimate = getattr(forecast, name)
            inside[name] += estimate.low <= count <= estimate.high
        low, high = (10_000 * (1 - failure_rate) * rate for rate in law.rate_interval())
        by_rate += low <= counts["false_alarms"] <= high
    for name, count in inside.items():
        assert binom.cdf(count, days, 0.98 if name == "alarms" else 0.99) > 1e-4 / 5, name
    assert binom.cdf(by_rate, days, 0.98) < 1e-4


def test_an_alarm_is_worth_what_arithmetic_says() -> None:
    law = FalseAlarmLaw(999, 950)
    forecast = worth(law, 0.001, 1e6, 180, 200)
    assert forecast.precision.value == pytest.approx(0.001 * 0.9 / (0.001 * 0.9 + 0.999 * 0.05))
    assert forecast.precision.low < forecast.precision.value < forecast.precision.high
    assert forecast.alarms.value == pytest.approx(1e6 * (0.001 * 0.9 + 0.999 * 0.05))
    assert forecast.caught.value + forecast.missed.value == pytest.approx(1_000)
    assert worth(law, 0, 1e6, 1, 1).precision.value == 0
    for wrong in (lambda: worth(law, 1.5, 1, 1, 1), lambda: worth(law, 0.1, 1, 0, 0), lambda: worth(law, 0.1, 1, 3, 2)):
        with pytest.raises(CalibrationError):
            wrong()
