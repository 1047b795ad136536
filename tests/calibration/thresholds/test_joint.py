"""Claims about the joint promise, tested with the law it obeys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import betabinom
from sklearn.datasets import load_breast_cancer, load_digits

from tocsin_calibration import CalibrationError, Promise, calibrate
from tocsin_calibration.dividing import responses_needed
from tocsin_calibration.thresholds.joint import JointScore
from tocsin_detectors import Mahalanobis, Observations, RandomNetworkDistillation, compile

FAILURE = 1e-4  # the probability with which a whole test of a guarantee may fail although the guarantee holds


def real_scores() -> dict[str, np.ndarray]:
    """Detectors' scores on two real data sets, fitted on rows that do not come back."""
    by_data = {}
    for name, data in (("digits", load_digits().data), ("breast cancer", load_breast_cancer().data)):
        order = np.random.default_rng(5).permutation(len(data))
        shown = Observations({"embedding": np.log1p(data[order]).astype(np.float32)})
        rows = len(data) // 6
        detectors = [Mahalanobis(), RandomNetworkDistillation(epochs=40)]
        scorer = compile(detectors, fit_on=shown.take(slice(0, rows)))
        by_data[name] = scorer(shown.take(slice(rows, None))).astype(np.float64)
    return by_data


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    return real_scores()


def splits(scores: np.ndarray, rule: str, alpha: float, runs: int) -> tuple[int, int, Promise]:
    """Alarms in fresh halves of the data over many random splits, and how many responses that were."""
    alarms = responses = 0
    for seed in range(runs):
        order = np.random.default_rng(seed).permutation(len(scores))
        half = len(scores) // 2
        promise = calibrate(scores[order[:half]], {"warning": alpha}, rule=rule, seed=seed)  # type: ignore[arg-type]
        alarms += sum(s is not None for s in promise.judge(scores[order[half:]]).severities)
        responses += len(scores) - half
    return alarms, responses, promise


@pytest.mark.parametrize("rule", ["any", "2 of 3", "all", "learnt"])
def test_infinite_scores_are_the_lowest_and_the_highest_and_never_nan(rule: str) -> None:
    reference = np.random.default_rng(0).normal(size=(50, 3))
    joint = JointScore(reference, rule, [1.0, 0.5, 0.0] if rule == "learnt" else None)
    lowest, highest = np.full(3, -np.inf), np.full(3, np.inf)
    mixed = [np.array(row) for row in ((-np.inf, 0.0, np.inf), (np.nan, -np.inf, 0.0), (-np.inf, -1e308, 1e300))]
    rows = np.array([lowest, np.full(3, -1e308), reference.min(axis=0) - 1, highest, *mixed])
    together, pvalues = joint(rows)
    assert not np.isnan(together).any() and not np.isnan(joint.surprisals(rows)).any()
    assert together[0] == together[1] == together[2] <= joint(reference)[0].min()
    assert together[3] == np.inf and (pvalues[0] == 1.0).all() and (pvalues[3] == 1 / 51).all()
    for row, nonconformity, details in zip(rows, together, pvalues, strict=True):
        assert joint.of(row.tolist()) == (nonconformity, details.tolist())


@pytest.mark.long
@pytest.mark.parametrize("rule", ["any", "all"])
@pytest.mark.parametrize("name", ["digits", "breast cancer"])
def test_one_calibration_keeps_its_promise_by_the_beta_binomial_law(
    scores: dict[str, np.ndarray], name: str, rule: str
) -> None:
    values = scores[name]
    outside = FAILURE / 40  # ten splits, two tails, and this test has two siblings a rule
    for seed in range(10):
        order = np.random.default_rng(100 + seed).permutation(len(values))
        half = len(values) // 2
        promise = calibrate(values[order[:half]], {"warning": 0.1}, rule=rule, seed=seed)  # type: ignore[arg-type]
        fresh = values[order[half:]]
        alarms = sum(s is not None for s in promise.judge(fresh).severities)
        law = promise.laws["warning"]
        a, b = law.n + 1 - law.k, law.k
        assert betabinom.sf(alarms - 1, len(fresh), a, b) > outside, "more alarms than the promise allows"
        assert betabinom.cdf(alarms, len(fresh), a, b) > outside, "fewer alarms than the promise spends"


def false_alarm_rate(rule: str, naive: bool, runs: int = 400) -> float:
    """The mean false-alarm rate over calibration sets of two dependent Gaussian detectors, alpha = 0.1."""
    random = np.random.default_rng(3)
    rates = []
    for seed in range(runs):
        shared = random.normal(size=(1_300, 1))
        scores = 0.6 * shared + 0.8 * random.normal(size=(1_300, 2))
        calibration, fresh = scores[:300], scores[300:]
        if naive:
            each = np.stack([fresh[:, j] > np.quantile(calibration[:, j], 0.9) for j in range(2)], axis=1)
            rates.append(float((each.any(axis=1) if rule == "any" else each.all(axis=1)).mean()))
        else:
            promise = calibrate(calibration, 0.1, rule=rule, seed=seed)  # type: ignore[arg-type]
            rates.append(float(np.mean([s is not None for s in promise.judge(fresh).severities])))
    return float(np.mean(rates))


@pytest.mark.long
@pytest.mark.parametrize("rule", ["any", "all"])
def test_the_joint_rate_is_alpha_on_average_and_joined_thresholds_fail_the_same_test(rule: str) -> None:
    # By the law the rate over calibration sets has mean mu and this standard deviation; five of its standard errors
    # are exceeded with probability under 1e-6.
    promise = calibrate(np.random.default_rng(0).normal(size=(300, 2)), 0.1)
    law = promise.laws["alarm"]
    mean = law.mean_rate
    variance = mean * (1 - mean) / (law.n + 2) + mean * (1 - mean) / 1_000
    allowed = 5 * (variance / 400) ** 0.5
    assert abs(false_alarm_rate(rule, naive=False) - mean) < allowed
    assert abs(false_alarm_rate(rule, naive=True) - mean) > allowed


@given(
    st.lists(st.integers(0, 8), min_size=25, max_size=60),
    st.lists(st.floats(-3, 12, allow_nan=False), min_size=1, max_size=30),
)
def test_evidence_increases_with_the_score_and_ties_change_nothing(reference: list[int], new: list[float]) -> None:
    scale = JointScore(np.array(reference, float)[:, None], "any")
    scaled = [scale.of([score]) for score in sorted(new)]
    assert [e for e, _ in scaled] == sorted(e for e, _ in scaled)
    for score, (evidence, [p]) in zip(sorted(new), scaled, strict=True):
        assert p == (1 + sum(r >= score for r in reference)) / (len(reference) + 1)
        assert evidence >= 0
    at = scale.of([max(reference)])[0]
    assert scale.of([max(reference) + 1])[0] > at


@hypothesis_settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(["any", "all"]), st.integers(1, 40))
def test_one_by_one_and_many_at_once_are_equal_to_the_bit(seed: int, rule: Any, rows: int) -> None:
    random = np.random.default_rng(seed)
    promise = calibrate(random.normal(size=(200, 3)).round(1), {"warning": 0.1, "critical": 0.02}, rule=rule)
    fresh = random.normal(size=(rows, 3), scale=2).round(1)
    joint, by_detector = promise._score(fresh)
    one_by_one = [promise._score.of(row) for row in fresh.tolist()]
    assert joint.tolist() == [c for c, _ in one_by_one]
    assert by_detector.tolist() == [p for _, p in one_by_one]
    judged = [promise.judge(fresh[i : i + 1]) for i in range(rows)]
    together = promise.judge(fresh)
    assert [j.pvalues[0] for j in judged] == together.pvalues == promise.pvalues(fresh).tolist()
    assert [j.severities[0] for j in judged] == together.severities


def test_severities_follow_the_joint_pvalue() -> None:
    random = np.random.default_rng(1)
    promise = calibrate(random.normal(size=(900, 2)), {"warning": 0.05, "critical": 0.01}, on_average=True)
    judged = promise.judge(random.normal(size=(3_000, 2), scale=1.5))
    for p, severity in zip(judged.pvalues, judged.severities, strict=True):
        assert severity == ("critical" if p <= 0.01 else "warning" if p <= 0.05 else None)
    assert set(judged.severities) == {"critical", "warning", None}
    assert promise.gravest([None, "warning", "critical"]) == "critical"
    assert promise.gravest([None]) is None


@pytest.mark.parametrize("rule", ["any", "all"])
def test_detector_thresholds_are_where_a_detector_begins_to_speak(rule: Any) -> None:
    random = np.random.default_rng(2)
    promise = calibrate(random.gamma(2, size=(600, 2)), {"warning": 0.05}, rule=rule, detectors=("a", "b"))
    limits = promise.detector_thresholds("warning")
    fresh = random.gamma(2, size=(2_000, 2), scale=1.6)
    above = np.stack([fresh[:, 0] > limits["a"], fresh[:, 1] > limits["b"]], axis=1)
    expected = above.any(axis=1) if rule == "any" else above.all(axis=1)
    assert [s is not None for s in promise.judge(fresh).severities] == expected.tolist()


def test_far_scores_keep_their_order_beyond_the_calibration() -> None:
    random = np.random.default_rng(4)
    joint = JointScore(random.normal(size=(100, 1)), "any")
    far = [joint.of([score])[0] for score in (5.0, 6.0, 50.0)]
    assert far == sorted(set(far))


def test_too_few_responses_are_refused_with_the_number_needed() -> None:
    needed = responses_needed(0.01)
    scores = np.random.default_rng(0).normal(size=(needed, 2))
    calibrate(scores, {"critical": 0.01})
    with pytest.raises(CalibrationError, match=f"cannot keep alpha = 0.01: {needed} are needed"):
        calibrate(scores[:-1], {"critical": 0.01})


@pytest.mark.parametrize(
    ("scores", "more", "message"),
    [
        (np.full((300, 2), np.nan), {}, "300 of 300 calibration responses have a NaN"),
        (np.zeros((300, 2, 2)), {}, r"must have the shape \(responses, detectors\)"),
        (np.zeros((300, 0)), {}, "must have the shape"),
        (np.zeros((300, 2)), {"rule": "most"}, "one of any, all, learnt, or such as '2 of 3', not 'most'"),
        (np.zeros((300, 2)), {"alpha": {}}, "there is no alpha"),
        (np.zeros((300, 2)), {"alpha": 1.5}, "strictly between 0 and 1"),
    ],
)
def test_what_cannot_be_promised_is_refused_in_words(scores: np.ndarray, more: dict, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        calibrate(scores, **more)


def test_constant_scores_never_alarm_on_themselves() -> None:
    promise = calibrate(np.zeros((300, 2)), 0.05)
    assert promise.judge(np.zeros((50, 2))).severities == [None] * 50
    assert promise.judge(np.ones((1, 2))).severities == ["alarm"]


def test_the_promise_is_said_in_words() -> None:
    scores = np.random.default_rng(0).normal(size=(1_500, 2))
    promise = calibrate(scores, {"warning": 0.05})
    expected = promise.laws["warning"].mean_rate
    like = "at most 5% of safe responses like the 1,000 calibration responses alarm"
    assert str(promise) == f"warning: {like} (confidence 95%); expect about {expected * 100:.2g}%"
    promise = calibrate(scores, {"warning": 0.05}, on_average=True)
    low, high = promise.laws["warning"].rate_interval(0.99)
    assert f"{like}, on average over calibrations; with this one you will see " in str(promise)
    assert f"{low * 100:.2g}% to {high * 100:.2g}%" in str(promise)
