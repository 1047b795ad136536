"""Claims about evidence for rollouts: e-values' means by enumeration, wrong decisions by the binomial law."""

from __future__ import annotations

from itertools import product
from math import exp, log

import numpy as np
import pytest
from numpy.typing import NDArray

from tocsin_calibration import CalibrationError
from tocsin_calibration.online.ratio_alternatives import Direction, alternatives, log_mixture
from tocsin_calibration.online.rollout_gate import RolloutGate, rate_interval, ratio_interval
from tocsin_calibration.online.two_streams import AgainstRate, Pairs, StreamComparison, Streams, boundary
from tocsin_calibration.thresholds.binomial import binomial_quantile

RUNS, SURE = 500, 1 - 1e-4
RATES = (0.001, 0.02, 0.05, 0.1, 0.3, 0.6)
Floats = NDArray[np.float64]


def mean_evalue(comparisons: StreamComparison, probabilities: Floats, ratio: float, direction: Direction) -> float:
    """The largest of the alternatives' means, when each batch comes with its probability."""
    _, logs = comparisons.log_increments(ratio, direction)
    return float((np.exp(logs) @ probabilities).max())


def law(chances: Floats) -> Floats:
    """The law of how many of independent responses alarm, each with a chance of its own."""
    result = np.ones(1)
    for chance in chances:
        result = np.convolve(result, [1 - chance, chance])
    return result


@pytest.mark.parametrize("ratio, direction", [(1.0, "above"), (1.5, "below"), (3.0, "above"), (0.4, "below")])
@pytest.mark.parametrize("canary, stable", [(1, 1), (3, 7), (6, 2), (1, 12)])
def test_no_batch_wins_on_average_under_the_null(ratio: float, direction: Direction, canary: int, stable: int) -> None:
    counts = list(product(range(canary + 1), range(stable + 1)))
    batches = Streams.of([[c, canary] for c, _ in counts], [[s, stable] for _, s in counts], 0.1)
    for rate, factor in product(RATES, (1.0, 0.7)):
        p_canary, p_stable = (ratio * rate * factor, rate) if direction == "above" else (ratio * rate, rate * factor)
        if max(p_canary, p_stable) > 1:
            continue
        chances = np.outer(law(np.full(canary, p_canary)), law(np.full(stable, p_stable))).ravel()
        assert mean_evalue(batches, chances, ratio, direction) <= 1 + 1e-12, (rate, factor)


def test_nor_when_each_response_of_a_batch_has_a_chance_of_its_own() -> None:
    draw = np.random.default_rng(0)
    counts = list(product(range(5), range(8)))
    batches = Streams.of([[c, 4] for c, _ in counts], [[s, 7] for _, s in counts])
    for _ in range(50):
        canary, stable = draw.uniform(0, 0.5, 4), draw.uniform(0, 0.5, 7)
        stable *= canary.mean() / stable.mean()  # on average they alarm alike
        if stable.max() <= 1:
            chances = np.outer(law(canary), law(stable)).ravel()
            assert mean_evalue(batches, chances, 1.0, "above") <= 1 + 1e-12


@pytest.mark.parametrize("ratio, direction", [(1.0, "above"), (1.5, "below"), (2.0, "above"), (0.5, "below")])
def test_no_pair_wins_on_average_under_the_null(ratio: float, direction: Direction) -> None:
    kinds = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 0, 0]], np.float64)
    draw = np.random.default_rng(1)
    for _ in range(300):
        both, candidate, live, neither = draw.dirichlet([1, 1, 1, 2])
        excess = (both + candidate) - ratio * (both + live)
        if (excess <= 0) == (direction == "above"):
            chances = np.array([both, candidate, live, neither])
            assert mean_evalue(Pairs.of(kinds), chances, ratio, direction) <= 1 + 1e-12


def test_against_a_promised_rate_no_response_wins_on_average() -> None:
    one_response = AgainstRate.of([[1, 1], [0, 1]], 0.05)
    for share in (0.1, 0.5, 1.0):
        assert mean_evalue(one_response, np.array([0.05 * share, 1 - 0.05 * share]), 1.0, "above") <= 1 + 1e-12
    for excess in (1.0, 2.0, 10.0):
        rate = 1.5 * 0.05 * excess
        assert mean_evalue(one_response, np.array([rate, 1 - rate]), 1.5, "below") <= 1 + 1e-12


def test_for_equal_rates_the_boundary_is_the_weighted_mean() -> None:
    assert boundary(0.3, 0.2, 0.05, 1.0) == pytest.approx(0.3 * 0.2 + 0.7 * 0.05)
    for ratio in (0.2, 1.5, 4.0):
        stable = boundary(np.linspace(0.01, 0.99, 50), 0.1, 0.05, ratio)
        assert (stable > 0).all() and (ratio * stable < 1).all()
    assert boundary(1.0, 0.1, 0.05, 1.5) * 1.5 == pytest.approx(0.1)  # nothing is known of the stable version


def runs(rates: Floats, canary_times: float, *, seed: int, batch: int = 40, times: int = 4) -> list[Streams]:
    """Runs over the same stable rates (T,): canary batches of `batch`, and `times` as many stable responses."""
    draw = np.random.default_rng(seed)
    size = (RUNS, len(rates))
    canary, stable = draw.binomial(batch, rates * canary_times, size), draw.binomial(batch * times, rates, size)
    ones = np.ones(len(rates))
    return [
        Streams.of(np.c_[c, batch * ones], np.c_[s, times * batch * ones]) for c, s in zip(canary, stable, strict=True)
    ]


def ever(comparisons: list[Streams], ratio: float, direction: Direction, probability: float) -> int:
    """In how many of the runs evidence ever reached 1/probability."""
    return sum(
        bool((log_mixture(*comparison.log_increments(ratio, direction)) >= -log(probability)).any())
        for comparison in comparisons
    )


DAY = 0.05 * np.exp(1.3 * np.sin(np.arange(500) / 25))  # rates of traffic that has good and bad hours


@pytest.mark.parametrize("rates", [np.full(500, 0.05), np.full(500, 0.004), DAY], ids=["calm", "rare", "hours"])
def test_wrong_decisions_in_20_000_responses_are_as_rare_as_promised(rates: Floats) -> None:
    for delta in (0.01, 0.1):
        allowed = binomial_quantile(SURE, RUNS, delta)
        assert ever(runs(rates, 1.0, seed=2), 1.0, "above", delta) <= allowed
        assert ever(runs(rates, 1.5, seed=3), 1.5, "below", delta) <= allowed


def test_a_canary_three_times_as_bad_is_aborted_and_one_as_good_promoted() -> None:
    """Both within 2,000 of its responses, in 95% of runs or more."""
    enough = RUNS - binomial_quantile(SURE, RUNS, 0.05)
    assert ever(runs(np.full(50, 0.05), 3.0, seed=4), 1.0, "above", 0.01) >= enough
    assert ever(runs(np.full(50, 0.05), 1.0, seed=5), 1.5, "below", 0.05) >= enough


def test_a_baseline_far_off_costs_power_and_no_promise() -> None:
    rates = np.full(500, 0.05)
    off = [
        Streams(s.canary_alarms, s.canary_responses, s.stable_alarms, s.stable_responses, 0.4)
        for s in runs(rates, 1.0, seed=6)
    ]
    assert ever(off, 1.0, "above", 0.1) <= binomial_quantile(SURE, RUNS, 0.1)


def test_intervals_hold_the_truth_at_all_looks() -> None:
    draw = np.random.default_rng(7)
    missed_rate = missed_ratio = 0
    looks = (1, 2, 3, 5, 8, 12, 20)
    for _ in range(RUNS):
        canary, stable = np.cumsum(draw.binomial(60, 0.1, 20)), np.cumsum(draw.binomial(240, 0.05, 20))
        rates = [rate_interval(int(canary[t - 1]), 60 * t, 0.9) for t in looks]
        missed_rate += any(not interval.low <= 0.1 <= interval.high for interval in rates)
        batches = Streams.of(
            np.c_[np.diff(canary, prepend=0), np.full(20, 60)], np.c_[np.diff(stable, prepend=0), np.full(20, 240)]
        )
        reached = [ever([batches], 2.0, "above", 0.05), ever([batches], 2.0, "below", 0.05)]
        missed_ratio += any(reached)
    assert missed_rate <= binomial_quantile(SURE, RUNS, 0.1)
    assert missed_ratio <= binomial_quantile(SURE, RUNS, 0.1)
    last = ratio_interval(batches, 0.9)
    assert last.low < last.value < last.high
    for ratio, direction in ((last.low, "above"), (last.high, "below")):
        trust, logs = batches.log_increments(ratio, direction)  # type: ignore[arg-type]
        assert exp(log_mixture(trust, logs)[-1]) == pytest.approx(20, rel=1e-3)


def test_the_rate_interval_is_where_the_mixture_is_outweighed() -> None:
    interval = rate_interval(3, 100)
    for rate in (interval.low, interval.high):
        grid = (np.arange(200_000) + 0.5) / 200_000
        weights = grid**-0.5 * (1 - grid) ** -0.5 / np.pi
        mixture = (weights * (grid / rate) ** 3 * ((1 - grid) / (1 - rate)) ** 97).mean()
        assert mixture == pytest.approx(20, rel=1e-2)
    assert rate_interval(0, 0).low == 0.0 and rate_interval(0, 0).high == 1.0
    assert rate_interval(0, 50).low == 0.0 and rate_interval(50, 50).high == 1.0


def test_batches_without_one_of_the_two_change_nothing() -> None:
    batches = Streams.of([[5, 50], [9, 50], [0, 0]], [[3, 100], [0, 0], [50, 100]])
    only = Streams.of([[5, 50]], [[3, 100]])
    for direction in ("above", "below"):
        lone = only.log_increments(1.5, direction)[1][:, 0]  # type: ignore[arg-type]
        assert batches.log_increments(1.5, direction)[1] == pytest.approx(np.c_[lone, 0 * lone, 0 * lone])  # type: ignore[arg-type]


def test_a_verdict_stands_and_an_abort_outweighs() -> None:
    gate = RolloutGate()
    bad = [[30, 100]] * 3 + [[0, 100]] * 30
    verdict = gate.verdict(Streams.of(bad, [[5, 100]] * 33))
    assert verdict.decision == "abort" and verdict.abort.reached is not None and verdict.abort.reached <= 3
    assert verdict.abort.highest > verdict.abort.limit and verdict.promote.reached is not None
    assert gate.verdict(Streams.of([], [])).decision == "continue"


def test_how_many_more_responses_it_takes_is_about_right() -> None:
    gate = RolloutGate()
    first = gate.verdict(Streams.of([[20, 200]], [[40, 800]]))
    assert first.decision == "continue" and first.abort.responses_needed is not None
    more = first.abort.responses_needed
    batches = [[20, 200], [more // 10, more]], [[40, 800], [more // 5, 4 * more]]
    assert gate.verdict(Streams.of(*batches)).abort.highest == pytest.approx(log(100), rel=0.2)
    assert first.promote.responses_needed is None  # at these rates never


def test_alternatives_lie_beyond_the_null_and_below_certainty() -> None:
    for ratio in (0.01, 0.5, 1.0, 1.1, 1.5, 10.0, 18.9):
        for other in alternatives(ratio, "above", 19.0)[1]:
            assert ratio < other <= 19
        for other in alternatives(ratio, "below", 19.0)[1]:
            assert other < ratio
    assert alternatives(1.0, "above", 1.5)[0].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "canary, stable, baseline",
    [([[2, 1]], [[0, 1]], 0.05), ([[-1, 1]], [[0, 1]], 0.05), ([[0, 1]], [[0, 1], [0, 1]], 0.05),
     ([[0, float("nan")]], [[0, 1]], 0.05), ([[0, 1]], [[0, 1]], 0.0), ([[0, 1]], [[0, 1]], 0.9)],
)  # fmt: skip
def test_what_are_no_counts_is_refused(canary: object, stable: object, baseline: float) -> None:
    with pytest.raises(CalibrationError):
        Streams.of(canary, stable, baseline)  # type: ignore[arg-type]


@pytest.mark.parametrize("terms", [{"delta": 0}, {"beta": 1}, {"excess": 1}, {"level": 1.2}, {"excess": float("nan")}])
def test_a_gate_that_promises_nothing_is_refused(terms: dict[str, float]) -> None:
    with pytest.raises(CalibrationError):
        RolloutGate(**terms)


def test_an_excess_that_no_rate_can_have_is_refused() -> None:
    with pytest.raises(CalibrationError, match="smaller excess"):
        RolloutGate(excess=2.0).verdict(AgainstRate.of([[1, 10]], 0.6))


def test_pairs_agree_with_the_sign_test_on_disagreements() -> None:
    """At equal rates only disagreements count: the bet on the candidate is a likelihood ratio of a fair coin."""
    _, logs = Pairs.of([[100, 7, 5, 2]]).log_increments(1.0, "above")
    assert logs[0, 0] == pytest.approx(5 * log(1.1) + 2 * log(0.9))
    gate = RolloutGate()
    assert gate.verdict(Pairs.of([[5000, 200, 90, 20]])).decision == "abort"
    assert gate.verdict(Pairs.of([[5000, 200, 20, 22]])).decision == "promote"
