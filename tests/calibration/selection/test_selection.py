"""Claims about selection: batches, streams, scores chosen on the same data, batches to come, and label sets."""

from __future__ import annotations

from itertools import islice, product

import numpy as np
import pytest
from benchmarks.exact import too_few, too_many, total_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import binom, false_discovery_control, mannwhitneyu

from tocsin_calibration import (
    Addis,
    CalibrationError,
    FalseAlarmLaw,
    LordPlusPlus,
    Saffron,
    benjamini_hochberg,
    calibrate_label_sets,
    conformal_selection,
    mean_bound,
    optimised_selection,
    order_statistic_bound,
    selection_pvalues,
)
from tocsin_calibration.selection.batch import _mann_whitney, below_order_statistic
from tocsin_calibration.selection.label_sets import LabelPowerset
from tocsin_calibration.selection.optcs import _released_if_best

FAILURE = 1e-4


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from([0.05, 0.2]))
def test_benjamini_hochberg_is_scipys(pvalues: list[float], q: float) -> None:
    theirs = false_discovery_control(pvalues, method="bh")
    if np.abs(theirs - q).min() > 1e-9:
        assert benjamini_hochberg(pvalues, q).tolist() == (theirs <= q).tolist()


def labelled(random: np.random.Generator, size: int, kinds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Badness by several scores, only some of which tell much, and whether responses were good."""
    good = random.random(size) < 0.6
    strength = np.linspace(2.0, 0.2, kinds)
    return np.where(good, 0, 1)[:, None] * strength + random.normal(size=(size, kinds)), good


def false_share(released: np.ndarray, good: np.ndarray) -> float:
    return float((released & ~good).sum() / max(1, released.sum()))


def exceeds(shares: list[float], q: float) -> bool:
    """Whether a mean of shares in [0, 1] lies above q by more than chance allows (Hoeffding's bound)."""
    excess = float(np.mean(shares)) - q
    return excess > 0 and np.exp(-2 * len(shares) * excess**2) < FAILURE


def test_the_share_of_bad_ones_among_released_is_kept_where_a_naive_cut_exceeds_it() -> None:
    random, q = np.random.default_rng(1), 0.1
    controlled, naive, released = [], [], 0
    for _ in range(600):
        scores, good = labelled(random, 400)
        chosen = conformal_selection(scores[:200, 0], good[:200], scores[200:, 0], q, random.random(200))
        controlled.append(false_share(chosen, good[200:]))
        released += int(chosen.sum())
        by_eye = scores[200:, 0] <= np.quantile(scores[:200, 0], 0.8)
        naive.append(false_share(by_eye, good[200:]))
    assert not exceeds(controlled, q) and exceeds(naive, q)
    assert released / 600 > 10


@pytest.mark.long
def test_a_score_chosen_on_the_same_data_keeps_the_promise_only_with_the_correction() -> None:
    random, q = np.random.default_rng(2), 0.1
    corrected, naive, released = [], [], 0
    for _ in range(300):
        good = random.random(120) < 0.5
        scores = random.normal(size=(120, 60))  # sixty scores, none of which tells anything
        labelled_part, new, truth = scores[:60], scores[60:], good[60:]
        best = max((conformal_selection(labelled_part[:, k], good[:60], new[:, k], q) for k in range(60)), key=np.sum)
        naive.append(false_share(best, truth))
        chosen = optimised_selection(labelled_part, good[:60], new, q, float(random.random()))
        corrected.append(false_share(chosen, truth))
        released += int(chosen.sum())
    assert not exceeds(corrected, q) and exceeds(naive, q)


def test_optimised_selection_finds_the_score_that_tells() -> None:
    random, q = np.random.default_rng(3), 0.2
    sizes, shares = [], []
    for _ in range(100):
        scores, good = labelled(random, 600, kinds=4)
        chosen = optimised_selection(scores[:300], good[:300], scores[300:], q, float(random.random()))
        sizes.append(int(chosen.sum()))
        shares.append(false_share(chosen, good[300:]))
    assert not exceeds(shares, q) and np.mean(sizes) > 100


@hypothesis_settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(5, 25), st.sampled_from([0.1, 0.3, 0.6]))
def test_the_sizes_looked_up_in_sorted_ranks_are_those_of_the_definition(seed: int, m: int, n: int, q: float) -> None:
    random = np.random.default_rng(seed)
    bad, tested = random.integers(0, 8, n // 2).astype(float), random.integers(0, 8, m).astype(float)
    sizes, pvalues = _released_if_best(bad, n, tested, q)
    for j in range(m):
        auxiliary = np.array([
            0.0 if i == j else ((bad <= tested[i]).sum() + (tested[j] <= tested[i])) / (n + 1) for i in range(m)
        ])  # fmt: skip
        assert sizes[j] == benjamini_hochberg(auxiliary, q).sum()
        assert pvalues[j] == pytest.approx((1 + (bad <= tested[j]).sum()) / (n + 1))


@pytest.mark.long
@pytest.mark.parametrize("make", [LordPlusPlus, Saffron, Addis])
def test_streams_keep_the_false_discovery_rate_and_find_what_is_there(make) -> None:  # type: ignore[no-untyped-def]
    random, alpha = np.random.default_rng(4), 0.1
    shares, power = [], []
    for _ in range(150):
        bad = random.random(600) < 0.3
        pvalues = np.where(bad, random.beta(0.05, 4, 600), random.random(600))
        control = make(alpha)
        alarms = np.array([control.decide(float(p)) for p in pvalues])
        shares.append(float((alarms & ~bad).sum() / max(1, alarms.sum())))
        power.append(float(alarms[bad].mean()))
    assert not exceeds(shares, alpha) and np.mean(power) > 0.4


@pytest.mark.parametrize("make", [LordPlusPlus, Saffron, Addis])
def test_a_stream_of_alarms_is_remembered_in_bounded_memory(make) -> None:  # type: ignore[no-untyped-def]
    control = make(0.1)
    alarms = [control.decide(1e-9) for _ in range(3_000)]
    assert sum(alarms) > 2_900 and len(control._alarms) == 50 and 0 < control.level <= 0.5


@pytest.mark.long
def test_addis_gains_on_conservative_pvalues_and_all_stay_quiet_when_nothing_is_there() -> None:
    random = np.random.default_rng(5)
    power = {}
    for make in (LordPlusPlus, Saffron, Addis):
        shares = []
        for seed in range(60):
            random = np.random.default_rng(seed)
            bad = random.random(500) < 0.3
            pvalues = np.where(bad, random.beta(0.1, 4, 500), random.beta(6, 1, 500))  # nulls near 1
            control = make(0.1)
            shares.append(np.array([control.decide(float(p)) for p in pvalues])[bad].mean())
        power[make.__name__] = np.mean(shares)
    assert power["Addis"] > power["LordPlusPlus"]
    quiet = sum(LordPlusPlus(0.1).decide(float(p)) for p in random.random(50))
    assert quiet <= 5
    with pytest.raises(CalibrationError):
        Addis(0.1, tau=0.2, candidates=0.3)
    with pytest.raises(CalibrationError):
        LordPlusPlus(0.1, wealth=0.2)


@given(st.integers(1, 30), st.integers(1, 12), st.data())
def test_ranks_of_a_batch_have_the_stated_law(n: int, m: int, data: st.DataObject) -> None:
    j = data.draw(st.integers(1, m))
    pmf = below_order_statistic(n, m, j)
    assert pmf.sum() == pytest.approx(1)
    assert (np.arange(n + 1) * pmf).sum() == pytest.approx(n * j / (m + 1))


def test_the_rank_sum_law_is_mann_whitneys() -> None:
    random = np.random.default_rng(6)
    pmf = _mann_whitney(7, 5)
    assert pmf.sum() == pytest.approx(1) and len(pmf) == 36
    x, y = random.normal(size=5), random.normal(size=7)
    u = mannwhitneyu(x, y, alternative="greater", method="exact")
    assert pmf[int(u.statistic) :].sum() == pytest.approx(u.pvalue)


@pytest.mark.long
@pytest.mark.parametrize("statistic", ["max", "median", "mean"])
def test_the_next_batch_stays_within_its_bound_as_often_as_promised(statistic: str) -> None:
    random, alpha, runs, m = np.random.default_rng(7), 0.1, 1_500, 7
    exceeded, bounds = 0, []
    for _ in range(runs):
        scores = random.beta(2, 3, 100 + m)
        calibration, batch = scores[:100], scores[100:]
        if statistic == "mean":
            bound, observed = mean_bound(calibration, m, alpha, 1.0), batch.mean()
        else:
            j = m if statistic == "max" else (m + 1) // 2
            bound, observed = order_statistic_bound(calibration, m, j, alpha), np.sort(batch)[j - 1]
        bounds.append(bound)
        exceeded += observed > bound
    assert binom.sf(exceeded - 1, runs, alpha) > FAILURE
    assert np.isfinite(bounds).mean() > 0.99 and np.mean(bounds) < 1


def test_of_the_next_hundred_at_most_so_many_alarm() -> None:
    random, law = np.random.default_rng(8), FalseAlarmLaw.at(300, 0.05)
    most, runs = law.at_most(100, 0.95), 1_000
    exceeded = 0
    for _ in range(runs):
        limit = np.sort(random.random(300))[law.k - 1]
        exceeded += int((random.random(100) > limit).sum()) > most
    assert binom.sf(exceeded - 1, runs, 0.05) > FAILURE
    assert law.at_most(100, 0.99) >= most >= 5


def test_bounds_that_no_data_can_give_are_infinite_or_refused() -> None:
    assert order_statistic_bound(np.arange(5.0), 20, 20, 0.01) == np.inf
    for wrong in (lambda: order_statistic_bound([1.0], 3, 4, 0.1), lambda: mean_bound(np.arange(9.0), 3, 0.1, 5.0),
                  lambda: mean_bound(np.arange(9_000.0), 30, 0.1, 9_000.0)):  # fmt: skip
        with pytest.raises(CalibrationError):
            wrong()


@hypothesis_settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0, 5))
def test_label_sets_are_those_of_the_definition_nearest_first(seed: int, labels: int, tau: float) -> None:
    random = np.random.default_rng(seed)
    scores, weights = random.random(labels), random.random(labels) + 0.1
    sets = LabelPowerset(tau, weights).sets(scores)
    every = np.array(list(product([False, True], repeat=labels)))
    distance = (weights * np.abs(scores - every)).sum(axis=1)
    within = every[distance <= tau]
    listed = list(sets)
    assert {tuple(s) for s in listed} == {tuple(s) for s in within} and len(listed) == len(within) == sets.count()
    away = [float((weights * np.abs(scores - s)).sum()) for s in listed]
    assert away == pytest.approx(sorted(away))
    assert all((s in sets) == (d <= tau) for s, d in zip(every, distance, strict=True) if abs(d - tau) > 1e-9)
    for label in np.flatnonzero(sets.certain) if listed else []:
        assert {s[label] for s in within.tolist()} == {bool(sets.nearest[label])}


def test_true_label_sets_are_covered_as_promised() -> None:
    random, alpha, covered = np.random.default_rng(9), 0.1, []
    for _ in range(150):
        truth = random.random((110, 6)) < 0.3
        scores = np.clip(np.where(truth, 0.7, 0.2) + 0.25 * random.normal(size=truth.shape), 0, 1)
        weights = 1 / np.abs(scores[:30] - truth[:30]).mean(axis=0)  # labels that are usually near the truth count more
        powerset = calibrate_label_sets(scores[30:90], truth[30:90], alpha, weights)
        covered += [t in powerset.sets(s) for s, t in zip(scores[90:], truth[90:], strict=True)]
    law = FalseAlarmLaw.at(60, alpha)
    missed = len(covered) - sum(covered)
    pmf = total_of([(law, 20)] * 150)
    assert too_many(pmf, missed) > FAILURE / 2 and too_few(pmf, missed) > FAILURE / 2


def test_fifty_labels_need_no_enumeration() -> None:
    random = np.random.default_rng(10)
    truth = random.random((200, 50)) < 0.2
    scores = np.clip(truth * 0.8 + 0.1 + 0.15 * random.normal(size=truth.shape), 0, 1)
    sets = calibrate_label_sets(scores, truth, 0.1).sets(scores[0])
    first = list(islice(sets, 500))  # of 2^50
    assert len({tuple(labels) for labels in first}) == len(first)
    assert sets.count(2_000) == 2_000


def test_selection_refuses_what_does_not_fit() -> None:
    for wrong in (lambda: selection_pvalues([1.0], [True, False], [1.0]), lambda: benjamini_hochberg([0.1], 1.5),
                  lambda: optimised_selection([[1.0]], [True], [[1.0, 2.0]], 0.1),
                  lambda: optimised_selection([[1.0]], [True], [[1.0]], 0.1, 2.0),
                  lambda: calibrate_label_sets([[2.0]], [[1.0]], 0.1)):  # fmt: skip
        with pytest.raises(CalibrationError):
            wrong()
    assert optimised_selection([[1.0]], [True], np.zeros((0, 1)), 0.1).tolist() == []
