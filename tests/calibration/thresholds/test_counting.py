"""Counting very many scores gives what sorting them would."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_calibration import CalibrationError, DriftWatch, smoothed_pvalues
from tocsin_calibration.thresholds.counting import Bracket, NotBracketedError, RankCounts, expected_brackets
from tocsin_calibration.thresholds.law import FalseAlarmLaw
from tocsin_calibration.thresholds.limits import Limits
from tocsin_calibration.thresholds.ordered import Ordered
from tocsin_calibration.thresholds.split import pvalues

EXACT = 50


def counted(scores, ranks, *, sample, parts=1, exact=EXACT):
    brackets = expected_brackets(sample, len(scores), ranks, exact=exact)
    total = RankCounts(sample, brackets, exact=exact)
    for part in np.array_split(scores, parts):
        counts = RankCounts(sample, brackets, exact=exact)
        for batch in np.array_split(part, 3):
            counts.add(batch)
        total.merge(counts)
    return total.ordered(ranks)


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("ties", [None, 1, 0])
def test_ranks_asked_for_are_found_exactly_with_any_ties(parts, ties):
    rng = np.random.default_rng(1)
    for n in (40, 51, 500, 20_000):
        scores, sample = rng.exponential(size=(2, n))
        if ties is not None:
            scores, sample = scores.round(ties), sample.round(ties)
        ranks = sorted({max(1, int(n * q)) for q in (0.02, 0.5, 0.9, 0.95, 0.999)})
        ordered = counted(scores, ranks, sample=sample, parts=parts)
        assert ordered.n == n
        assert [ordered.at_rank(k) for k in ranks] == [np.sort(scores)[k - 1] for k in ranks]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=300), st.integers(1, 5), st.integers(0, 9))
def test_a_p_value_is_never_too_small_and_exact_among_the_largest(values, parts, seed):
    scores = np.asarray(values, float)
    sample = np.random.default_rng(seed).choice(scores, 20)
    ordered = counted(scores, [], sample=sample, parts=parts, exact=10)
    places = np.linspace(-1, 32, 67)
    exact, ours = pvalues(np.sort(scores), places), ordered.pvalues(places)
    assert (ours >= exact).all()
    largest = places > np.sort(scores)[-min(10, len(scores))]
    assert (ours[largest] == exact[largest]).all()
    lookup = ordered.pvalue_of_one()
    assert [lookup(score) for score in places.tolist()] == ours.tolist()


def test_alarms_are_those_of_all_scores():
    rng = np.random.default_rng(2)
    scores, sample, fresh = rng.normal(size=30_000), rng.normal(size=3_000), rng.normal(size=5_000)
    alphas = {"critical": 0.01, "warning": 0.05}
    ranks = [FalseAlarmLaw.at(len(scores), alpha).k for alpha in alphas.values()]
    all_of, some = Limits(scores, alphas), Limits(counted(scores, ranks, sample=sample), alphas)
    assert some.thresholds == all_of.thresholds and some.laws == all_of.laws
    assert len(some.scores) < len(scores) / 5
    for alpha in alphas.values():  # a p-value says what the threshold says
        assert ((some.pvalues(fresh) <= alpha) == (all_of.pvalues(fresh) <= alpha)).all()


def test_a_rank_outside_of_the_brackets_is_not_guessed():
    scores, sample = np.arange(1_000.0), np.arange(0.0, 1_000.0, 10)
    counts = RankCounts(sample, [Bracket(10, 20)], exact=EXACT)
    counts.add(scores)
    with pytest.raises(NotBracketedError) as missed:
        counts.ordered([15, 500])
    assert missed.value.brackets == [Bracket(490, 500)]
    again = RankCounts(sample, [Bracket(10, 20), *missed.value.brackets], exact=EXACT)
    again.add(scores)
    assert again.ordered([15, 500]).at_rank(500) == 499


def test_a_sample_that_says_nothing_leaves_nothing_out():
    (bracket,) = expected_brackets(np.arange(4.0), 1_000, [500], exact=EXACT)
    assert bracket == Bracket(-inf, inf)
    counts = RankCounts(np.arange(4.0), [bracket], exact=EXACT)
    counts.add(np.arange(1_000.0))
    assert counts.ordered([500]).at_rank(500) == 499


def test_counts_between_other_edges_are_not_merged():
    with pytest.raises(CalibrationError, match="same edges"):
        RankCounts(np.arange(3.0)).merge(RankCounts(np.arange(4.0)))


def test_smoothed_p_values_and_ranks_of_drift_stay_uniform():
    rng = np.random.default_rng(3)
    scores, sample, fresh = rng.normal(size=40_000), rng.normal(size=200), rng.normal(size=20_000)
    summary = counted(scores, [], sample=sample)
    p = smoothed_pvalues(summary, fresh, rng.random(len(fresh)))
    # Dvoretzky-Kiefer-Wolfowitz for both samples together: exceeded with a probability below 1e-4.
    bound = np.sqrt(np.log(2 / 1e-4) / 2) * (1 / np.sqrt(len(fresh)) + 1 / np.sqrt(len(scores)))
    assert np.abs(np.sort(p) - np.arange(1, len(p) + 1) / len(p)).max() < bound
    watch = DriftWatch(summary)
    watch.add(fresh)
    assert watch.log_evidence() < np.log(1e4)  # Ville: reached with a probability of 1e-4 at most
    watch.add(fresh + 0.2)
    assert watch.log_evidence() > np.log(1e4)


def test_kept_scores_that_do_not_rise_are_refused():
    for scores, upto in (([1, 1], [1, 2]), ([1, 2], [2, 2]), ([1], [1, 2]), ([1, np.inf], [1, 2]), ([], [])):
        with pytest.raises(CalibrationError):
            Ordered.from_counts(np.asarray(scores, float), upto)


def test_those_that_stand_for_all_lie_at_equal_ranks():
    summary = counted(np.arange(10_000.0), [], sample=np.arange(0.0, 10_000.0, 100))
    spread = summary.spread(11)
    assert len(spread) == 11 and np.abs(spread - np.linspace(0, 9_999, 11)).max() <= 100
    assert Ordered.of(np.arange(5.0)).spread(10).tolist() == [0, 1, 2, 3, 4]
