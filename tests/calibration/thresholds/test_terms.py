"""Claims about promises of other kinds: with confidence, for groups, for other traffic, on contaminated calibration."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from benchmarks.exact import too_few, too_many, total_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, kstest, norm, rankdata

from tocsin_calibration import (
    CalibrationError,
    FalseAlarmLaw,
    calibrate,
    covariate_weights,
    estimate_shares,
    label_shift_weights,
    smoothed_pvalues,
    uniforms,
)
from tocsin_calibration.content import arrays_of, facts_of, promise_from
from tocsin_calibration.thresholds.binomial import beta_cdf, beta_quantile, binomial_cdf, clopper_pearson
from tocsin_calibration.thresholds.contaminated import bad_among, false_alarm_bounds, rank_contaminated
from tocsin_calibration.thresholds.limits import Limits
from tocsin_calibration.thresholds.pac import rank_pac, required_size_pac
from tocsin_calibration.thresholds.split import rank, required_size
from tocsin_calibration.thresholds.terms import Guarantee
from tocsin_calibration.thresholds.weighted import Weighted, effective_size

FAILURE = 1e-4


@given(st.floats(0.5, 3_000), st.floats(0.5, 3_000), st.floats(0.001, 0.999))
def test_the_beta_law_is_scipys(a: float, b: float, x: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(beta.cdf(x, a, b), abs=1e-10)
    assert beta_quantile(x, a, b) == pytest.approx(beta.ppf(x, a, b), abs=1e-9)


@given(st.integers(1, 2_000), st.floats(0, 1), st.floats(0.001, 0.999))
def test_the_binomial_law_and_its_interval_are_scipys(n: int, share: float, p: float) -> None:
    count = round(share * n)
    assert binomial_cdf(count, n, p) == pytest.approx(binom.cdf(count, n, p), abs=1e-10)
    low, high = clopper_pearson(count, n, 0.95)
    interval = binomtest(count, n).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-9)


@given(st.integers(10, 5_000), st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([0.5, 0.1, 0.01]))
def test_the_pac_rank_is_the_smallest_that_keeps_the_confidence(n: int, alpha: float, delta: float) -> None:
    if n < required_size_pac(alpha, delta):
        assert (1 - alpha) ** n > delta
        with pytest.raises(CalibrationError, match="with confidence"):
            rank_pac(n, alpha, delta)
        return
    k = rank_pac(n, alpha, delta)
    assert beta.cdf(alpha, n + 1 - k, k) >= 1 - delta - 1e-12
    assert k == 1 or beta.cdf(alpha, n + 2 - k, k - 1) < 1 - delta


@pytest.mark.long
def test_pac_calibrations_exceed_alpha_as_rarely_as_promised_and_marginal_ones_in_half_the_cases() -> None:
    random, runs, delta = np.random.default_rng(1), 400, 0.1
    exceeded = Counter[str]()
    terms_by_name: dict[str, dict] = {"pac": {"confidence": 1 - delta}, "default": {}, "marginal": {"on_average": True}}
    for seed in range(runs):
        scores = random.normal(size=(600, 1))
        for name, terms in terms_by_name.items():
            promise = calibrate(scores, 0.05, seed=seed, **terms)
            limit = promise.detector_thresholds("alarm")["detector 0"]
            exceeded[name] += norm.sf(limit) > 0.05
    assert binom.sf(exceeded["pac"] - 1, runs, delta) > FAILURE
    assert binom.sf(exceeded["default"] - 1, runs, 0.05) > FAILURE
    assert binom.sf(exceeded["marginal"] - 1, runs, delta) < FAILURE  # so this judge can tell


def test_smoothed_pvalues_are_uniform_even_where_scores_tie() -> None:
    random = np.random.default_rng(2)
    smoothed, plain = [], []
    for block in range(3_000):
        scores = random.integers(0, 5, 21).astype(float)
        calibration = np.sort(scores[:20])
        smoothed += smoothed_pvalues(calibration, scores[20:], uniforms([f"response-{block}"], seed=3)).tolist()
        plain.append((1 + (calibration >= scores[20]).sum()) / 21)
    assert kstest(smoothed, "uniform").pvalue > FAILURE
    assert kstest(plain, "uniform").pvalue < FAILURE


def test_a_responses_uniform_is_the_same_for_ever_and_another_for_another_seed() -> None:
    assert uniforms(["a", b"a", 7], seed=5).tolist() == uniforms(["a", b"a", 7], seed=5).tolist()
    assert uniforms(["a"], seed=5)[0] == 0.1173891623242192  # BLAKE2b, keyed: on any machine
    assert uniforms(["a"], seed=5)[0] != uniforms(["a"], seed=6)[0] != uniforms(["b"], seed=6)[0]
    many = uniforms(range(20_000))
    assert many.min() > 0 and many.max() < 1 and kstest(many, "uniform").pvalue > FAILURE


@hypothesis_settings(max_examples=50)
@given(st.integers(60, 400), st.sampled_from([0.05, 0.1]), st.floats(0.0, 0.2), st.integers(0, 99))
def test_contaminated_calibration_stays_within_its_bounds_wherever_bad_scores_lie(
    n: int, alpha: float, share: float, seed: int
) -> None:
    bad = bad_among(n, share)
    try:
        k = rank_contaminated(n, alpha, share)
    except CalibrationError as error:
        assert "of them bad, cannot keep" in str(error)
        return
    assert false_alarm_bounds(n, k, bad).high <= alpha + 1e-12
    assert k == rank(n, alpha) or false_alarm_bounds(n, k - 1, bad).high > alpha
    # The rank of the threshold among safe scores alone, for bad scores below, above and anywhere.
    random = np.random.default_rng(seed)
    safe = random.normal(size=n - bad)
    for others in (np.full(bad, -99.0), np.full(bad, 99.0), random.normal(size=bad)):
        limit = np.sort(np.concatenate([safe, others]))[k - 1]
        rate = ((safe > limit).sum() + 1) / (n - bad + 1) if limit < 99 else 0
        assert rate <= alpha + 1e-12


def blocks(scores: np.ndarray, calibration: int, fresh: int) -> list[tuple[np.ndarray, np.ndarray]]:
    size = calibration + fresh
    return [
        (scores[at : at + calibration], scores[at + calibration : at + size])
        for at in range(0, len(scores) - size + 1, size)
    ]


def test_every_group_keeps_a_promise_of_its_own_where_the_pooled_one_does_not() -> None:
    random = np.random.default_rng(4)
    alarms, pooled = Counter[str](), Counter[str]()
    laws: dict[str, list[Any]] = {"a": [], "b": []}
    fresh = 400
    for seed in range(40):
        groups = random.choice(["a", "b"], 3_000, p=[0.7, 0.3])
        scores = random.normal(size=3_000) * np.where(groups == "b", 2.0, 1.0)  # group b scores wider
        promise = calibrate(scores, {"warning": 0.05}, groups=groups.tolist(), seed=seed)
        plain = calibrate(scores, {"warning": 0.05}, seed=seed)
        assert set(promise.groups) == {"a", "b"} and promise.pooled == ()
        for name, scale in (("a", 1.0), ("b", 2.0)):
            new = random.normal(size=(fresh, 1)) * scale
            alarms[name] += sum(s is not None for s in promise.judge(new, [name] * fresh).severities)
            pooled[name] += sum(s is not None for s in plain.judge(new).severities)
            laws[name].append((promise.groups[name].laws["warning"], fresh))
    for name in ("a", "b"):
        pmf = total_of(laws[name])
        assert too_many(pmf, alarms[name]) > FAILURE / 4 and too_few(pmf, alarms[name]) > FAILURE / 4
    assert too_many(total_of(laws["b"]), pooled["b"]) < FAILURE < too_many(total_of(laws["a"]), pooled["a"])


def test_a_group_too_small_for_any_promise_gets_the_pooled_threshold_and_is_named() -> None:
    random = np.random.default_rng(5)
    groups = ["big"] * 900 + ["tiny"] * 12
    promise = calibrate(random.normal(size=(912, 2)), {"warning": 0.05}, groups=groups)
    assert promise.pooled == ("tiny",) and set(promise.groups) == {"big"}
    new = random.normal(size=(50, 2))
    assert promise.judge(new, ["tiny"] * 50) == promise.judge(new, ["never seen"] * 50) == promise.judge(new)


def tenants(random: np.random.Generator, rows: int) -> tuple[np.ndarray, list[str]]:
    """Scores (n, 1) of 10 large tenants and 200 small ones, whose traffic is harder."""
    large = random.random(rows) < 0.8
    names = np.where(large, random.integers(10, size=rows), 100 + random.integers(200, size=rows))
    return (random.normal(size=rows) * np.where(large, 1.0, 1.4))[:, None], [str(name) for name in names]


def test_small_groups_keep_a_promise_together_where_the_pooled_threshold_does_not() -> None:
    random, alarms, pooled, laws = np.random.default_rng(15), 0, 0, []
    for seed in range(20):
        scores, groups = tenants(random, 4_000)
        promise = calibrate(scores, {"warning": 0.05}, groups=groups, seed=seed)
        assert promise.others is not None and len(promise.groups) == 10 and len(promise.pooled) > 150
        new, names = tenants(random, 2_000)
        names = [name if name in promise.groups else "a new one" for name in names]
        small = np.asarray(names) == "a new one"
        alarmed = np.asarray([s is not None for s in promise.judge(new, names).severities])
        alarms += int(alarmed[small].sum())
        pooled += int((promise.joint(new)[small] > promise.thresholds["warning"]).sum())
        laws.append((promise.others.laws["warning"], int(small.sum())))
    pmf = total_of(laws)
    assert too_many(pmf, pooled) < FAILURE < min(too_many(pmf, alarms), too_few(pmf, alarms))


def test_what_is_promised_for_is_said_and_what_is_not() -> None:
    random = np.random.default_rng(16)
    scores, names = tenants(random, 4_000)
    promise = calibrate(scores, {"warning": 0.05}, groups=names)
    assert set(promise.parts) == {*map(str, range(10)), ""} and promise.parts[""] is promise.others
    assert "each of 10 groups' responses alarm and at most as many of all other groups' responses together" in str(
        promise
    )
    few = calibrate(np.vstack([scores[:1], scores]), {"warning": 0.05}, groups=["tiny"] + ["big"] * 4_000)
    assert few.others is None and set(few.parts) == {"big"} and "nothing is promised for other groups" in str(few)


def test_weights_keep_the_promise_on_shifted_traffic_where_none_break_it() -> None:
    random = np.random.default_rng(6)
    alpha, fresh, runs = 0.1, 400, 60
    weighted = plain = 0
    for seed in range(runs):
        x = random.normal(size=1_500)
        score = np.abs(x) + 0.3 * random.normal(size=1_500)
        ratio = np.exp(np.minimum(x, 1.5))
        other = random.normal(size=8 * fresh)  # traffic in which a response comes as much more often as `ratio` says
        new = other[random.random(len(other)) < np.exp(np.minimum(other, 1.5) - 1.5)][:fresh]
        assert len(new) == fresh
        shown = (np.abs(new) + 0.3 * random.normal(size=fresh))[:, None]
        promise = calibrate(score, alpha, weights=ratio, seed=seed)
        weighted += sum(s is not None for s in promise.judge(shown).severities)
        plain += sum(s is not None for s in calibrate(score, alpha, seed=seed).judge(shown).severities)
    # With at least 300 effective responses a run the rate's deviation is below that of Beta-Binomial at 300.
    law = FalseAlarmLaw.at(300, alpha)
    assert promise.limits.effective > 300
    assert too_many(total_of([(law, fresh)] * runs), weighted) > FAILURE
    assert too_many(total_of([(law, fresh)] * runs), plain) < FAILURE


def test_what_a_recording_missed_counts_and_the_spread_is_told() -> None:
    """Ratios exp(1.5 x): by Kish's size alone, what is not refused alarms more often than promised."""
    random, runs, alpha = np.random.default_rng(61), 400, 0.1
    alarms, kish, accepted, usual = 0, 0, 0, 0
    covered = []
    for _ in range(runs):
        x = random.normal(size=200)
        score, ratio = x + 0.5 * random.normal(size=200), np.exp(1.5 * x - 1.125)
        new = random.normal(1.5) + 0.5 * random.normal()
        bare, plain = Weighted.of(score, ratio), Weighted.of(score, ratio, normalised=True)
        if bare.reach(alpha) is not None and effective_size(ratio) >= 9:
            usual, kish = usual + 1, kish + norm.sf((bare.scores[bare.reach(alpha) - 1] - 1.5) / 1.25**0.5)
        try:
            limits = Limits(score, {"a": alpha}, weights=ratio, normalised=True)
        except CalibrationError:
            continue
        accepted += 1
        alarms += bool(new > limits.thresholds["a"])
        assert plain.new > bare.new or ratio.mean() >= 1
    assert accepted > 50 and binom.sf(alarms - 1, accepted, alpha) > FAILURE and kish / usual > alpha
    for _ in range(300):
        x = random.normal(size=2_000)
        limits = Limits(x + 0.5 * random.normal(size=2_000), {"a": alpha}, weights=np.exp(x))
        rate = norm.sf((limits.thresholds["a"] - 1) / 1.25**0.5)
        low, high = limits.rate_range("a")
        covered.append(low <= rate <= high)
    assert binom.cdf(sum(covered), 300, 0.95) > FAILURE


def test_equal_weights_are_split_conformal_but_for_the_new_responses_share() -> None:
    random = np.random.default_rng(7)
    scores = np.sort(random.normal(size=199))
    even = Weighted.of(scores, np.full(199, 0.3))
    assert [even.rank(a) for a in (0.05, 0.1, 0.5)] == [rank(199, a) for a in (0.05, 0.1, 0.5)]
    new = random.normal(size=50)
    expected = (1 + (scores[:, None] >= new).sum(axis=0)) / 200
    np.testing.assert_allclose(even.pvalues(new), expected)
    assert effective_size(np.ones(40)) == 40 and effective_size([1, 0, 0]) == 1


def test_too_few_effective_responses_are_refused() -> None:
    weights = np.full(1_000, 1e-6)
    weights[:10] = 1
    with pytest.raises(CalibrationError, match=r"the weights leave \d+ effective of"):
        calibrate(np.random.default_rng(0).normal(size=(1_000, 1)), 0.05, weights=weights)
    for wrong in ([-1.0] * 1_000, [np.nan] * 1_000, [0.0] * 1_000):
        with pytest.raises(CalibrationError, match="weights must be"):
            calibrate(np.zeros((1_000, 1)), 0.05, weights=wrong)


def test_label_shift_is_estimated_and_weighted_away() -> None:
    random = np.random.default_rng(8)
    labels = random.choice(2, 6_000, p=[0.8, 0.2])
    said = np.where(random.random(6_000) < 0.9, labels, 1 - labels)
    target = random.choice(2, 6_000, p=[0.3, 0.7])
    target_said = np.where(random.random(6_000) < 0.9, target, 1 - target)
    shares = estimate_shares(labels, said, target_said, 2)
    assert shares == pytest.approx([0.3, 0.7], abs=0.05)
    weights = label_shift_weights(labels, shares)
    assert np.average(labels, weights=weights) == pytest.approx(shares[1])
    with pytest.raises(CalibrationError, match="class 2 is expected but not recorded"):
        label_shift_weights(labels, [0.3, 0.3, 0.4])
    with pytest.raises(CalibrationError, match="sum to 1"):
        label_shift_weights(labels, [0.5, 0.6])


def test_covariate_weights_find_the_likelihood_ratio() -> None:
    random = np.random.default_rng(9)
    recorded, target = random.normal(size=(8_000, 3)), random.normal([0.5, 0, 0], 1, size=(8_000, 3))
    weights = covariate_weights(recorded, target)
    truth = np.exp(0.5 * recorded[:, 0] - 0.125)
    assert np.corrcoef(rankdata(weights), rankdata(truth))[0, 1] > 0.98
    assert np.average(recorded[:, 0], weights=weights) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"confidence": 1.5}, "the confidence must lie strictly between"),
        ({"contaminated": 0.6}, r"must lie in \[0, 0\.5\)"),
        ({"confidence": 0.9, "contaminated": 0.1}, "choose one"),
        ({"confidence": 0.9, "on_average": True}, "with confidence or on average: choose one"),
        ({"groups": ["a"] * 300, "contaminated": 0.01}, "all that is bad may be of one"),
        ({"groups": ["a"]}, "there are 1 groups for 300 responses"),
        ({"weights": np.ones(300), "groups": ["a"] * 300}, "a weighted promise cannot also be one for groups"),
        ({"rule": "3 of 2"}, "does not fit 2 detectors"),
        ({"rule": "2 of 3"}, "does not fit 2 detectors"),
        ({"confidence": 0.9999, "alpha": 0.01}, "cannot keep alpha = 0.01"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused_in_words(more: dict, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        calibrate(np.random.default_rng(0).normal(size=(300, 2)), **more)


@pytest.mark.parametrize("terms", [{}, {"confidence": 0.9}, {"contaminated": 0.01}])
def test_the_number_of_responses_named_is_the_number_that_suffices(terms: dict) -> None:
    with pytest.raises(CalibrationError) as caught:
        calibrate(np.arange(30.0), {"critical": 0.02}, **terms)
    needed = int(str(caught.value).partition(" are needed")[0].rpartition(" ")[2])
    calibrate(np.arange(float(needed)), {"critical": 0.02}, **terms)
    with pytest.raises(CalibrationError):
        calibrate(np.arange(needed - 1.0), {"critical": 0.02}, **terms)


def test_by_default_each_alpha_is_promised_with_confidence_where_the_rows_suffice() -> None:
    random, alphas = np.random.default_rng(12), {"warning": 0.05, "critical": 0.01}
    scores = random.normal(size=(300, 2))
    few = calibrate(scores, alphas)
    assert few.limits.sure == {"critical": None, "warning": 0.95}
    assert few.thresholds["warning"] == calibrate(scores, alphas["warning"], confidence=0.95).thresholds["alarm"]
    assert few.thresholds["critical"] == calibrate(scores, alphas, on_average=True).thresholds["critical"]
    said = few.sentence("critical")
    assert "on average over calibrations" in said and "(confidence 95%); expect" in few.sentence("warning")
    missing = int(said.partition(" more responses would promise it for this one")[0].rpartition("(")[2])
    enough = calibrate(random.normal(size=(300 + missing, 2)), alphas)
    assert enough.limits.sure == {"critical": 0.95, "warning": 0.95} and "average" not in str(enough)
    assert calibrate(random.normal(size=(300 + missing - 2, 2)), alphas).limits.sure["critical"] is None
    with pytest.raises(CalibrationError, match=r"with confidence 0\.95: 448 are needed .*or promise it on average"):
        calibrate(scores, alphas, confidence=0.95)  # what is asked for is not traded for less


@pytest.mark.parametrize("terms", [{"weights": np.ones(1_500)}, {"contaminated": 0.001}, {"on_average": True}])
def test_what_cannot_be_promised_with_confidence_is_promised_on_average(terms: dict) -> None:
    promise = calibrate(np.random.default_rng(13).normal(size=(1_500, 2)), 0.05, **terms)
    assert promise.terms.confidence is None and promise.limits.sure == {"alarm": None}
    assert promise.laws["alarm"].mean_rate > 0.045  # with confidence it is 0.039


def test_bundles_of_before_keep_what_they_promised() -> None:
    scores = np.random.default_rng(17).normal(size=(1_500, 2))
    for terms in ({"on_average": True}, {"confidence": 0.9}):
        promise = calibrate(scores, {"warning": 0.05}, **terms)  # type: ignore[arg-type]
        facts = facts_of(promise)
        del facts["else_average"]
        read = promise_from(facts, arrays_of(promise), promise.detectors, "sha256:0")
        assert read.thresholds == promise.thresholds and read.terms == promise.terms and str(read) == str(promise)


def test_groups_with_fewer_rows_than_the_confidence_takes_are_promised_for_on_average() -> None:
    scores = np.random.default_rng(14).normal(size=(1_500, 2))
    promise = calibrate(scores, {"critical": 0.01}, groups=["large"] * 1_200 + ["small"] * 300)
    sure = {name: limits.sure["critical"] for name, limits in promise.groups.items()}
    assert sure == {"large": 0.95, "small": None}
    assert "(confidence 95% each; on average over calibrations in 1 with fewer than 299)" in str(promise)


@given(st.integers(60, 2_000), st.floats(0.002, 0.3), st.floats(0.002, 0.3))
def test_a_graver_alarm_never_needs_less_than_a_milder_one(n: int, first: float, second: float) -> None:
    alphas = {"grave": min(first, second), "mild": max(first, second)}
    if n < required_size(alphas["grave"]):
        return
    limits = Limits(np.arange(float(n)), alphas, Guarantee(0.95, else_average=True))
    assert limits.thresholds["grave"] >= limits.thresholds["mild"]
    for name, alpha in alphas.items():
        assert limits.laws[name].mean_rate <= alpha + 1e-12


def test_a_learnt_rule_weighs_the_detector_that_tells() -> None:
    random = np.random.default_rng(10)
    safe, bad = random.normal(size=(1_500, 3)), random.normal([3, 0, 0], 1, size=(500, 3))
    learnt = calibrate(safe, {"warning": 0.05}, rule="learnt", failures=bad)
    assert learnt.combination is not None and learnt.combination[0] > 0.8
    assert learnt.combination.min() >= 0 and learnt.combination.sum() == pytest.approx(1)
    new = random.normal([3, 0, 0], 1, size=(2_000, 3))
    caught = {}
    for rule in ("learnt", "any", "2 of 3", "all"):
        promise = calibrate(safe, {"warning": 0.05}, rule=rule, failures=bad)
        caught[rule] = sum(s is not None for s in promise.judge(new).severities)
    assert caught["learnt"] >= caught["any"] > caught["2 of 3"] > caught["all"]


def test_without_failures_detectors_that_say_the_same_share_one_vote() -> None:
    random = np.random.default_rng(11)
    column = random.normal(size=(2_000, 1))
    same = np.hstack([column, column + 0.01 * random.normal(size=(2_000, 1)), random.normal(size=(2_000, 1))])
    weights = calibrate(same, {"warning": 0.05}, rule="learnt").combination
    assert weights is not None and weights[2] == pytest.approx(0.5, abs=0.1)
