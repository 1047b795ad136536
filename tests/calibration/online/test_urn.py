"""Claims about e-values: fair bets while the promise holds, quick to grow when it does not, and right for ever."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from tocsin_calibration import CalibrationError, DriftWatch, FalseAlarmLaw, ShiryaevRoberts, Watch, promise_log_evalue
from tocsin_calibration.online.alarm_rate import MULTIPLES, promise_test
from tocsin_calibration.online.drift import _edges
from tocsin_calibration.online.urn import cell_edges, drift_test
from tocsin_calibration.thresholds.ordered import Ordered

LAW = FalseAlarmLaw.at(500, 0.05)
FAILURE = 1e-4


@given(st.integers(30, 3_000), st.sampled_from([0.01, 0.05, 0.3]), st.integers(0, 5_000), st.floats(0, 1))
def test_the_next_response_is_a_fair_bet_under_the_promise(n: int, alpha: float, responses: int, share: float) -> None:
    law = FalseAlarmLaw.at(max(n, 100), alpha)
    alarms = round(share * responses)
    p = (law.n + 1 - law.k + alarms) / (law.n + 1 + responses)
    test = promise_test(law)
    now = test.log_martingale((alarms, responses - alarms))
    after = [
        test.log_martingale((alarms + 1, responses - alarms)) - now,
        test.log_martingale((alarms, responses + 1 - alarms)) - now,
    ]
    assert p * exp(after[0]) + (1 - p) * exp(after[1]) == pytest.approx(1, abs=1e-6)


@given(st.integers(20, 2_000), st.lists(st.integers(0, 300), min_size=20, max_size=20), st.booleans())
def test_the_next_rank_is_a_fair_bet_under_exchangeability(n: int, counts: list[int], late: bool) -> None:
    test = drift_test(n)
    counts = counts[: len(test.cells)]
    before = [c // 2 for c in counts] if late else None
    urn = [a + c + (0 if before is None else b) for a, c, b in zip(test.cells, counts, before or counts, strict=True)]
    now = test.log_evalue(counts, before)
    expected = 0.0
    for cell, share in enumerate(urn):
        one_more = [c + (i == cell) for i, c in enumerate(counts)]
        expected += share / sum(urn) * exp(test.log_evalue(one_more, before) - now)
    assert expected == pytest.approx(1, abs=1e-6)


def test_it_starts_at_one_and_grows_with_alarms() -> None:
    assert promise_log_evalue(LAW, 0, 0) == pytest.approx(0, abs=1e-12)
    grown = [promise_log_evalue(LAW, alarms, 200) for alarms in range(10, 200, 10)]
    assert grown == sorted(grown) and grown[0] < 0.5 < log(100) < grown[-1]


def test_cells_divide_the_gaps_and_calm_scores_fall_in_each_alike() -> None:
    assert cell_edges(19) == list(range(21)) and cell_edges(5) == list(range(7))
    edges = cell_edges(500)
    assert edges[0] == 0 and edges[-1] == 501 and len(edges) == 21
    assert drift_test(500).cells == tuple(np.diff(edges))


@pytest.mark.long
def test_false_pages_stay_within_delta_whenever_one_looks() -> None:
    delta, runs, responses = 0.02, 300, 4_000
    random = np.random.default_rng(6)
    promises = drifts = 0
    for run in range(runs):
        calibration = np.sort(random.random(LAW.n))
        scores = random.random(responses)
        watch, drift = Watch(promise_test(LAW), every=500), DriftWatch(calibration, every=500, seed=run)
        crossed = [False, False]
        for part in np.split(scores, responses // 50):  # looks; half as many find a planted fault as often
            alarms = int((part > calibration[LAW.k - 1]).sum())
            watch.add((alarms, len(part) - alarms))
            drift.add(part)
            crossed[0] |= watch.log_evidence() >= log(1 / delta)
            crossed[1] |= drift.log_evidence() >= log(1 / delta)
        promises, drifts = promises + crossed[0], drifts + crossed[1]
    for paged in (promises, drifts):
        assert binom.sf(paged - 1, runs, delta) > FAILURE / 2


def test_a_martingale_against_a_frozen_set_would_cry_wolf() -> None:
    """Betting as if the threshold's rate were exactly alpha forgets the calibration set's own luck."""
    delta, runs, responses = 0.02, 200, 20_000
    random = np.random.default_rng(7)
    rate, crossed = LAW.mean_rate, 0
    for _ in range(runs):
        true = 1 - np.sort(random.random(LAW.n))[LAW.k - 1]
        alarms = np.cumsum(random.random(responses) < true)
        calm = np.arange(1, responses + 1) - alarms
        logs = [
            log(t) + alarms * log(m * rate / rate) + calm * log((1 - m * rate) / (1 - rate)) for m, t in MULTIPLES[:3]
        ]
        crossed += bool((np.max(logs, axis=0) >= log(1 / delta)).any())
    assert binom.sf(crossed - 1, runs, delta) < FAILURE


@pytest.mark.long
@pytest.mark.parametrize(("multiple", "expected"), [(2, 349), (3, 92), (5, 25)])
def test_a_broken_promise_is_found_within_half_as_many_responses_again_as_simulated_before(
    multiple: int, expected: int
) -> None:
    random, test = np.random.default_rng(multiple), promise_test(LAW)
    delays = []
    for _ in range(201):
        alarms = np.cumsum(random.random(4_000) < multiple * 0.05).tolist()
        crossings = (t for t in range(1, 4_001) if test.log_evalue((alarms[t - 1], t - alarms[t - 1])) >= log(100))
        delays.append(next(crossings, 4_000))
    assert np.median(delays) <= 1.5 * expected


@pytest.mark.long
def test_restarts_find_a_change_after_long_calm_that_one_window_hardly_does() -> None:
    random, calm, every = np.random.default_rng(3), 5_000, 1_000
    delays: dict[str, list[int]] = {"restarted": [], "one window": []}
    for run in range(41):
        alarms = [*(random.random(calm + run * 25) < 0.05), *(random.random(4_000) < 0.15)]
        start = calm + run * 25
        for name, watch in (
            ("restarted", Watch(promise_test(LAW), every)),
            ("one window", Watch(promise_test(LAW), 10**9)),
        ):
            delay = None
            for t, alarm in enumerate(alarms):
                watch.add((int(alarm), 1 - int(alarm)))
                if t >= start and t % 5 == 0 and watch.log_evidence() >= log(100):
                    delay = t - start
                    break
            delays[name].append(4_000 if delay is None else delay)
    assert np.median(delays["restarted"]) < every / 2 + 2 * 92
    assert np.median(delays["one window"]) > 2 * np.median(delays["restarted"])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 200))
def test_a_watch_keeps_few_windows_and_batches_add_up(batches: list[int], every: int) -> None:
    watch = Watch(promise_test(LAW), every)
    for batch in batches:
        watch.add((batch // 10, batch - batch // 10))
    assert watch.responses == sum(batches) == sum(watch.counts)
    assert len(watch._windows) <= 9 + 4 * max(0, (watch._opened // 8).bit_length())
    shares = sum(6 / (np.pi * number) ** 2 for number in range(1, watch._opened + 1))
    assert watch._to_come == pytest.approx(1 - shares)
    assert [number for number, _ in watch._windows] == sorted({number for number, _ in watch._windows})


@pytest.mark.long
@pytest.mark.parametrize("n", [25, 200])
@pytest.mark.parametrize("kind", ["constant", "0/1", "rounded"])
def test_ties_do_not_look_like_drift(n: int, kind: str) -> None:
    """Gaps drawn anew among tied scores page always on constant scores, and in most runs on the others."""
    delta, runs, paged = 0.02, 60, 0
    draw = {
        "constant": lambda random, m: np.zeros(m),
        "0/1": lambda random, m: (random.random(m) < 0.3).astype(float),
        "rounded": lambda random, m: np.round(random.normal(size=m)),
    }[kind]
    for run in range(runs):
        random = np.random.default_rng([5, run])
        drift = DriftWatch(np.sort(draw(random, n)), auxiliary=run, seed=1_000 + run)
        crossed = False
        for part in np.split(draw(random, 5_000), 50):
            drift.add(part)
            crossed |= drift.log_evidence() >= log(1 / delta)
        paged += crossed
    assert binom.sf(paged - 1, runs, delta) > FAILURE / 6


def test_the_numbers_that_break_ties_are_those_of_a_sorted_sample() -> None:
    """At the cells' edges, and by their mean and spread: the r-th of m uniforms is Beta(r, m + 1 - r)."""
    n, cells = 39, 4
    drawn = np.array([_edges(Ordered.of(np.zeros(n)), cell_edges(n, cells)[1:-1], seed)[1] for seed in range(4_000)])
    assert (np.diff(drawn, axis=1) > 0).all()
    for column, rank in zip(drawn.T, (10, 20, 30), strict=True):
        assert kstest(column, "beta", args=(rank, n + 1 - rank)).pvalue > FAILURE / 6
        gap = drawn[:, 1] - drawn[:, 0]
        assert kstest(gap, "beta", args=(10, n + 1 - 10)).pvalue > FAILURE / 6
    same = DriftWatch(np.zeros(n), auxiliary=7)._uniforms
    assert (same == DriftWatch(np.zeros(n), auxiliary=7)._uniforms).all()


def test_cells_of_few_kept_scores_are_those_of_all() -> None:
    scores = np.sort(np.random.default_rng(8).normal(size=1_000))
    summary = Ordered.from_counts(scores[49::50], np.arange(50, 1_001, 50))
    few, every = DriftWatch(summary, seed=1), DriftWatch(scores, seed=1)
    new = np.random.default_rng(9).normal(size=400)
    for watch in (few, every):
        watch.add(new)
    assert sum(few.watch.counts) == 400
    assert np.abs(np.cumsum(few.watch.counts) - np.cumsum(every.watch.counts)).max() < 40  # of an edge's own block


@pytest.mark.long
@pytest.mark.parametrize(("shift", "expected"), [(0.5, 145), (1.0, 40)])
def test_drift_is_found_within_half_as_many_responses_again_as_simulated_before(shift: float, expected: int) -> None:
    delays = []
    for run in range(61):
        random = np.random.default_rng(run)
        drift = DriftWatch(np.sort(random.normal(size=500)), seed=run)
        scores = random.normal(size=1_500) + shift
        delay = 1_500
        for t, score in enumerate(scores):
            drift.add([score])
            if drift.log_evidence() >= log(100):
                delay = t + 1
                break
        delays.append(delay)
    assert np.median(delays) <= 1.5 * expected


@pytest.mark.long
def test_the_e_detector_runs_as_long_as_it_says_and_finds_late_changes() -> None:
    random, threshold = np.random.default_rng(9), 500.0
    lengths, delays = [], []
    for _ in range(200):
        true = 1 - np.sort(random.random(LAW.n))[LAW.k - 1]
        detector = ShiryaevRoberts.of(LAW)
        ran = next((t for t, a in enumerate(random.random(5_000) < true) if detector.add(bool(a)) >= threshold), 5_000)
        lengths.append(ran)  # stopped at 5,000, so the mean is only shorter than it would be
    spread = np.std(lengths) / len(lengths) ** 0.5
    assert np.mean(lengths) + 4 * spread >= threshold
    for _ in range(50):
        detector = ShiryaevRoberts.of(LAW)
        for alarm in random.random(3_000) < 0.03:
            detector.add(bool(alarm))
        delays.append(next(t for t, a in enumerate(random.random(4_000) < 0.15) if detector.add(bool(a)) >= threshold))
    assert np.median(delays) <= 1.5 * 92


def test_the_order_of_responses_and_so_of_replicas_does_not_matter() -> None:
    random = np.random.default_rng(2)
    alarms = random.random(900) < 0.07
    logs = []
    for order in (np.arange(900), random.permutation(900)):
        shuffled, log_e = alarms[order], 0.0
        alarmed = 0
        for t, alarm in enumerate(shuffled):  # the product of the fair bets along this very order
            now = promise_log_evalue(LAW, alarmed, t)
            alarmed += int(alarm)
            log_e += promise_log_evalue(LAW, alarmed, t + 1) - now
        logs.append(log_e)
    assert logs[0] == pytest.approx(logs[1], abs=1e-8) == promise_log_evalue(LAW, int(alarms.sum()), 900)


def test_impossible_counts_are_refused() -> None:
    for alarms, responses in ((-1, 5), (6, 5)):
        with pytest.raises(CalibrationError, match="there cannot be"):
            promise_log_evalue(LAW, alarms, responses)
    with pytest.raises(CalibrationError, match="there must be 2 counts"):
        promise_test(LAW).log_evalue((1, 2, 3))
    with pytest.raises(CalibrationError, match="a restart needs at least one"):
        Watch(promise_test(LAW), 0)
