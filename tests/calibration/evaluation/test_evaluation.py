"""Claims about evaluation: figures equal to their definitions, promises judged by their law, a page that stands
alone.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, ks_2samp
from sklearn.metrics import brier_score_loss, log_loss

from tocsin_calibration import (
    CalibrationError,
    Costs,
    SessionRule,
    calibrate,
    calibrate_sessions,
    compare,
    evaluate,
    fit_risk_policy,
)
from tocsin_calibration.evaluation.comparison import _kolmogorov_smirnov
from tocsin_calibration.evaluation.kept import check_count, seed_to_seed
from tocsin_calibration.evaluation.metrics import (
    brier,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)
from tocsin_calibration.evaluation.report import report
from tocsin_calibration.evaluation.subgroups import harmony, subgroup_curves
from tocsin_calibration.thresholds.law import FalseAlarmLaw
from tocsin_calibration.thresholds.limits import Limits


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=2, max_size=50))
def test_brier_and_likelihood_are_scikit_learns(pairs: list[tuple[float, bool]]) -> None:
    p, right = [p for p, _ in pairs], [r for _, r in pairs]
    assert brier(p, right) == pytest.approx(brier_score_loss(right, p))
    assert negative_log_likelihood(p, right) == pytest.approx(log_loss(right, p, labels=[False, True]))


def test_the_risk_coverage_curve_is_the_mean_loss_of_the_best_scored() -> None:
    curve = risk_coverage([3.0, 1.0, 2.0, 4.0], [1, 0, 1, 0])
    assert curve.risk == pytest.approx([0, 0.5, 2 / 3, 0.5])
    assert curve.aurc == pytest.approx(np.mean([0, 0.5, 2 / 3, 0.5]))
    assert curve.excess == pytest.approx(curve.aurc - np.mean([0, 0, 1 / 3, 0.5]))
    assert risk_coverage([1.0] * 4, [1, 0, 0, 0]).risk == pytest.approx([0.25] * 4)  # ties share
    assert risk_coverage([1.0, 2.0], [0, 1]).excess == 0


def test_ece_is_small_for_true_probabilities_and_its_bands_say_which_is_which() -> None:
    random = np.random.default_rng(1)
    p = random.random(3_000)
    honest = expected_calibration_error(p, random.random(3_000) < p)
    overconfident = expected_calibration_error(p, random.random(3_000) < 0.5 + (p - 0.5) / 2)
    assert honest.error < honest.by_chance and overconfident.error > 3 * overconfident.by_chance
    assert overconfident.low < overconfident.error < overconfident.high and overconfident.error == pytest.approx(
        0.125, abs=0.02
    )
    table = reliability(p, random.random(3_000) < p)
    assert sum(table.counts) == 3_000 and table.predicted == sorted(table.predicted)


def test_the_range_of_a_calibration_error_holds_the_error_itself() -> None:
    for seed in range(20):
        random = np.random.default_rng([32, seed])
        p = random.random(200)
        estimate = expected_calibration_error(p, random.random(200) < p, seed=seed)
        assert estimate.low <= estimate.error <= estimate.high


def test_harmony_says_nothing_of_two_groups_whose_spread_is_told_instead() -> None:
    assert np.isnan(harmony([0.99, 0.01]))
    random = np.random.default_rng(33)
    scores = random.normal(size=(900, 1))
    promise = calibrate(scores)
    correct, groups = np.arange(400) % 4 > 0, ["a"] * 200 + ["b"] * 200
    correct[:200] = True
    labelled = evaluate(promise, random.normal(size=(400, 1)), correct=correct, groups=groups).labelled
    assert labelled is not None and labelled.harmony is None and labelled.spread == pytest.approx(0.25)


@pytest.mark.parametrize("rule", ["any", "all", "learnt"])
def test_a_score_that_is_no_number_is_never_calm(rule: str) -> None:
    random = np.random.default_rng(34)
    promise = calibrate(random.normal(size=(1_500, 2)), rule=rule)
    undefined, many = np.array([[0.0, np.nan], [np.nan, 0.0], [np.nan, np.nan]]), random.normal(size=(40, 2))
    few, batch = promise.judge(undefined), promise.judge(np.vstack([undefined, many]))
    assert few.severities == batch.severities[:3] and few.pvalues == batch.pvalues[:3]
    assert few.by_detector == batch.by_detector[:3]
    alarmed = few.severities if rule != "all" else few.severities[2:]  # one detector is calm, and has a say
    assert set(alarmed) == {"critical"} and min(few.pvalues) == 1 / (promise.n + 1)
    with pytest.raises(CalibrationError, match=r"3 of 43 responses have a NaN .* row 0"):
        evaluate(promise, np.vstack([undefined, many]))


def test_what_one_will_see_is_by_the_scores_over_the_threshold_where_they_tie() -> None:
    """0/1 scores with 3% ones: at most 5% is promised, and 3% is what is seen."""
    inside, promised, runs = 0, 0, 200
    for run in range(runs):
        random = np.random.default_rng([35, run])
        limits = Limits((random.random(1_000) < 0.03).astype(float), {"a": 0.05})
        low, high = limits.rate_range("a")
        inside += low <= 0.03 <= high
        promised += limits.laws["a"].rate_interval(0.99)[0] <= 0.03
    assert binom.cdf(inside, runs, 0.99) > 1e-4 / 2 and binom.cdf(promised, runs, 0.99) < 1e-4


def test_harmony_is_one_for_alike_groups_and_falls_with_a_bad_corner() -> None:
    assert harmony([0.8, 0.8, 0.8]) == pytest.approx(1)
    assert harmony([0.9, 0.9, 0.3]) < harmony([0.85, 0.8, 0.75]) < 1
    assert np.isnan(harmony([0.5]))


def test_subgroup_curves_tell_a_group_that_does_not_gain() -> None:
    random = np.random.default_rng(2)
    scores = random.random(6_000)
    groups = np.where(random.random(6_000) < 0.5, "fine", "odd")
    wrong = random.random(6_000) < np.where(groups == "odd", 0.8 - 0.5 * scores, scores)
    curves = subgroup_curves(scores, wrong, groups.tolist())
    assert curves["fine"].correlation > 0.9 and curves["odd"].correlation < 0
    assert curves["fine"].coverage[-1] == 1


def test_a_count_is_judged_by_the_law() -> None:
    law = FalseAlarmLaw.at(400, 0.05)
    assert check_count(law, 0.05, 25, 500).word == "kept"
    broken = check_count(law, 0.05, 70, 500)
    assert broken.word == "broken" and broken.chance < 0.005 and broken.low > 0.05
    assert check_count(law, 0.05, 2, 500).word == "quiet" and check_count(law, 0.05, 0, 0).word == "unknown"


def test_seed_to_seed_variance_is_the_laws() -> None:
    random = np.random.default_rng(3)
    variances = [seed_to_seed(random.normal(size=2_000), 0.1, seed=seed) for seed in range(30)]
    spread = np.mean([variance.deviation**2 for variance in variances if variance]) ** 0.5
    assert spread == pytest.approx(variances[0].expected, rel=0.15)  # type: ignore[union-attr]
    assert seed_to_seed(random.normal(size=12), 0.01) is None


def world(random: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    badness = random.random(size)
    scores = np.stack([badness + 0.1 * random.normal(size=size), random.normal(size=size)], axis=1)
    return scores, random.random(size) > badness**2, random.choice(["north", "south"], size).tolist()


class Links(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag in ("script", "link", "img", "iframe"):
            self.loaded.append(tag)


def test_an_evaluation_has_every_figure_as_json_and_as_a_page_that_loads_nothing() -> None:
    random = np.random.default_rng(4)
    scores, _, groups = world(random, 1_500)
    promise = calibrate(scores, groups=groups, detectors=("a", "b"))
    policy = fit_risk_policy(*world(random, 900)[:2])
    fresh, truth, where = world(random, 2_000)
    evaluation = evaluate(promise, fresh, groups=where, correct=truth, failures=random.normal(3, 1, (300, 2)),
                          risk=policy, costs=Costs(1, 3, 0.4))  # fmt: skip
    facts = json.loads(json.dumps(evaluation.facts()))
    assert facts["severities"]["warning"]["word"] == "kept" and facts["drift"] < 4.6
    assert sum(facts["pvalues"]) == 2_000 and set(facts["groups"]) == {"north", "south"}
    labelled = facts["labelled"]
    assert labelled["accuracy"] == pytest.approx(truth.mean())
    assert labelled["probabilities"]["worth_policy"] > labelled["probabilities"]["worth_always"]
    assert labelled["harmony"] is None and labelled["curve"]["coverage"][-1] == 1  # of two groups it says nothing
    shares = labelled["accuracy_by_group"].values()
    assert labelled["spread"] == pytest.approx(max(shares) - min(shares))
    assert (
        facts["power"]["caught"]["warning"][0] > 200 and facts["power"]["separation"]["joint"]["auroc"]["value"] > 0.9
    )
    page = report(evaluation, title="a <b> & c", promise=str(promise), about=[("data", "x")])
    links = Links()
    links.feed(page)
    assert links.loaded == [] and "a &lt;b&gt; &amp; c" in page and page.count("<svg") >= 4
    assert "The promise was kept" in page and "nan" not in page.partition("<details>")[0].lower()


def test_an_evaluation_on_strange_traffic_says_broken() -> None:
    random = np.random.default_rng(5)
    promise = calibrate(random.normal(size=(900, 1)))
    evaluation = evaluate(promise, random.normal(1, 1, size=(500, 1)))
    assert evaluation.severities["warning"].word == "broken" and evaluation.drift is not None and evaluation.drift > 4.6
    assert "The promise was <b>broken</b>" in report(evaluation, title="t", promise=str(promise))


def test_sessions_are_evaluated_as_sessions() -> None:
    random = np.random.default_rng(6)

    def rows(count: int, shift: float = 0.0) -> tuple[np.ndarray, list[str]]:
        names = [f"s{i}" for i in range(count) for _ in range(10)]
        return random.normal(shift, 1, size=(10 * count, 1)), names

    safe, _ = rows(400)
    promise = calibrate_sessions(np.split(safe, 400), {"warning": 0.1}, session=SessionRule())
    fresh, fresh_names = rows(200)
    bad, bad_names = rows(50, 3.0)
    evaluation = evaluate(promise, fresh, sessions=fresh_names, failures=bad, failed_sessions=bad_names)
    assert evaluation.severities["warning"].n == 200 and evaluation.severities["warning"].word == "kept"
    assert evaluation.power is not None and evaluation.power.sessions is not None
    assert evaluation.power.n == 50 and evaluation.power.sessions.tpr > 0.9 and evaluation.power.sessions.twa > 0.8
    with pytest.raises(CalibrationError, match="this promise is for sessions"):
        evaluate(promise, fresh)


def test_the_distance_of_two_calibrations_is_scipys() -> None:
    random = np.random.default_rng(8)
    a, b = np.sort(random.integers(0, 9, 300)).astype(float), np.sort(random.integers(1, 10, 200)).astype(float)
    distance, chance = _kolmogorov_smirnov(a, b, random)
    assert distance == pytest.approx(ks_2samp(a, b).statistic)
    assert chance == 0.001
    assert _kolmogorov_smirnov(a, a, random)[1] == 1


def test_a_candidate_is_advised_by_what_both_do_on_fresh_traffic() -> None:
    random = np.random.default_rng(70)
    current = calibrate(random.normal(size=(1_500, 2)))
    moved = random.normal(0.7, 1, size=(1_500, 2))
    better = compare(current, calibrate(moved), random.normal(0.7, 1, size=(800, 2)), moved)
    assert better.advice.startswith("take the candidate") and better.shift > 0.2 and better.chance < 0.01
    same = random.normal(size=(1_500, 2))
    assert compare(current, calibrate(same), random.normal(size=(800, 2)), same).advice.startswith("keep either")
    quieter = random.normal(-2, 0.3, size=(1_500, 2))
    worse = compare(current, calibrate(quieter), random.normal(size=(800, 2)), quieter)
    assert worse.advice.startswith("keep the current calibration")


def test_evaluation_refuses_what_does_not_fit() -> None:
    promise = calibrate(np.random.default_rng(0).normal(size=(600, 1)))
    wrong: list[tuple[dict, str]] = [
        ({"groups": ["a"]}, "1 groups for 5"),
        ({"correct": [True]}, "1 labels for 5"),
        ({"dcs": [1.0]}, "1 DCS values for 5"),
        ({"failures": np.zeros((2, 1)), "failed_sessions": ["a"]}, "1 failed sessions for 2"),
    ]
    for more, message in wrong:
        with pytest.raises(CalibrationError, match=message):
            evaluate(promise, np.zeros((5, 1)), **more)
    with pytest.raises(CalibrationError, match="nothing to evaluate"):
        evaluate(promise, np.zeros((0, 1)))
