"""Claims about rates of alarms: fewer than promised never count against the promise, and far fewer are seen apart."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tocsin_calibration import FalseAlarmLaw, ShiryaevRoberts, Watch, calibrate, promise_log_evalue
from tocsin_calibration.online.alarm_rate import RateTest, promise_test, quiet_test
from tocsin_calibration.thresholds.limits import Limits
from tocsin_calibration.thresholds.terms import Guarantee

FAILURE = 1e-4
DELTA = 0.02
Draw = Callable[[np.random.Generator, int], np.ndarray]
SIZES = st.sampled_from([25, 120, 399, 400, 500, 2_000, 10_000])


@pytest.mark.long
@settings(max_examples=300)
@given(
    SIZES, st.sampled_from([0.04, 0.05, 0.2]), st.integers(1, 300), st.integers(0, 3_000), st.floats(0, 1), st.data()
)
def test_evidence_is_the_least_of_the_martingale_at_more_alarms(
    n: int, alpha: float, responses: int, earlier: int, share: float, data: st.DataObject
) -> None:
    test = promise_test(FalseAlarmLaw.at(n, alpha))
    alone = [RateTest(*test.cells, [(1.0, rate)], learns=True) for _, rate in test._rates]
    for single in alone:
        martingale = [single.log_martingale((c, responses - c)) for c in range(responses + 1)]
        least = np.minimum.accumulate(martingale[::-1])[::-1]
        evalues = [single.log_evalue((c, responses - c)) for c in range(responses + 1)]
        assert evalues == pytest.approx(least.tolist(), abs=1e-7)
    before = (round(share * earlier), earlier - round(share * earlier))
    count = data.draw(st.integers(0, responses - 1))
    for earlier_counts in (None, before):
        low, high = (test.log_evalue((c, responses - c), earlier_counts) for c in (count, count + 1))
        assert low <= high + 1e-9


def test_one_alarm_in_a_hundred_where_five_are_promised_is_no_evidence_against_the_promise() -> None:
    assert promise_log_evalue(FalseAlarmLaw.at(10_000, 0.05), 100, 10_000) < 0
    for n in (100, 500, 1_000, 10_000):
        law = FalseAlarmLaw.at(n, 0.05)
        for rate in (0, 0.001, 0.01, 0.03, 0.05):
            watch = Watch(promise_test(law))
            for _ in range(100):
                watch.add((round(200 * rate), 200 - round(200 * rate)))
                assert watch.log_evidence() < log(10)


def softmax(random: np.random.Generator, m: int) -> np.ndarray:
    """1 - the largest probability in float32, of a model that is sure of nearly everything."""
    z = random.normal(size=m) * 8 + 34
    return (1 - 1 / (1 + np.exp(-z).astype(np.float32))).astype(np.float64)


LAWS: dict[str, Draw] = {
    "continuous": lambda random, m: random.normal(size=m),
    "rounded": lambda random, m: np.round(random.normal(size=m), 1),
    "coarse": lambda random, m: np.round(random.normal(size=m)),
    "0/1, 3%": lambda random, m: (random.random(m) < 0.03).astype(float),
    "0/1, 0.5%": lambda random, m: (random.random(m) < 0.005).astype(float),
    "an atom": lambda random, m: np.where(random.random(m) < 0.01, 0.95, random.random(m)),
    "constant": lambda random, m: np.zeros(m),
    "Poisson": lambda random, m: random.poisson(2, m).astype(float),
    "saturated": softmax,
}


@pytest.mark.long
@pytest.mark.parametrize("name", list(LAWS))
def test_safe_traffic_pages_within_delta_whatever_ties(name: str) -> None:
    """Both tests, restarts included, each run with a calibration set of its own, n from 100 to 2,000."""
    runs, paged, quiet = 60, 0, 0
    for run in range(runs):
        random = np.random.default_rng([11, run])
        limits = Limits(LAWS[name](random, (100, 400, 2_000)[run % 3]), {"alarm": 0.05})
        watch = watched(limits, 500)
        scores = LAWS[name](random, 5_000)
        by_promise, by_quiet = _ever(watch, scores > limits.thresholds["alarm"])
        paged, quiet = paged + by_promise, quiet + by_quiet
    assert binom.sf(paged - 1, runs, DELTA) > FAILURE / 20
    assert binom.sf(quiet - 1, runs, DELTA) > FAILURE / 20


@pytest.mark.long
@pytest.mark.parametrize("kind", ["contaminated", "easier", "easier, then as before"])
def test_what_alarms_less_than_calibration_says_never_pages(kind: str) -> None:
    runs, paged, quiet = 60, 0, 0
    for run in range(runs):
        random = np.random.default_rng([12, run])
        scores, live = random.normal(size=800), random.normal(size=6_000)
        terms = Guarantee()
        if kind == "contaminated":  # at worst: all that is bad lies below, or above
            scores[:40], terms = (-10 if run % 2 else 10), Guarantee(contaminated=0.05)
        else:
            live[: 6_000 if kind == "easier" else 3_000] -= 0.6
        limits = Limits(scores, {"alarm": 0.1}, terms)
        by_promise, by_quiet = _ever(watched(limits, 500), live > limits.thresholds["alarm"])
        paged, quiet = paged + by_promise, quiet + by_quiet
    assert binom.sf(paged - 1, runs, DELTA) > FAILURE / 6
    if kind == "contaminated":
        assert binom.sf(quiet - 1, runs, DELTA) > FAILURE / 6
    else:
        assert quiet > 0.9 * runs


def test_only_exact_laws_let_later_windows_learn() -> None:
    distinct, tied = np.arange(200.0), np.arange(200) // 2.0
    assert Limits(distinct, {"a": 0.1}).exact == {"a": True}
    assert Limits(tied, {"a": 0.1}).exact == {"a": False}
    assert Limits(distinct, {"a": 0.1}, Guarantee(contaminated=0.02)).exact == {"a": False}
    assert Limits(distinct, {"a": 0.1}, weights=np.ones(200)).exact == {"a": False}
    law = FalseAlarmLaw.at(500, 0.05)
    calm, later = (250, 4_750), (60, 440)
    learnt, fresh = promise_test(law), promise_test(law, learns=False)
    assert learnt.log_evalue(later, calm) > fresh.log_evalue(later, calm) + 1
    assert learnt.log_evalue(later, (25, 4_975)) == pytest.approx(fresh.log_evalue(later) + log(0.2))


def test_far_fewer_alarms_are_found_and_a_calibration_without_any_above_cannot_tell() -> None:
    law = FalseAlarmLaw.at(500, 0.05)
    test = quiet_test(law, law.n - law.k)
    assert test is not None and quiet_test(law, 0) is None
    assert test.log_evalue((0, 0)) < 0
    assert test.log_evalue((10, 990)) > log(100) > test.log_evalue((50, 950))
    falling = [test.log_evalue((c, 1_000 - c)) for c in range(0, 1_001, 10)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.long
def test_a_time_of_few_alarms_does_not_make_the_e_detector_suspect_the_usual_rate() -> None:
    law, runs, short = FalseAlarmLaw.at(500, 0.05), 40, 0
    for run in range(runs):
        random = np.random.default_rng([13, run])
        detector = ShiryaevRoberts.of(law)
        for alarm in random.random(4_000) < 0.005:
            detector.add(bool(alarm))
        short += any(detector.add(bool(alarm)) >= 10_000 for alarm in random.random(1_000) < 0.05)
    assert binom.sf(short - 1, runs, 1_000 / 10_000) > FAILURE


def test_calibration_decides_what_a_watch_may_do() -> None:
    scores = np.random.default_rng(1).normal(size=(900, 2))
    assert calibrate(scores).watches_drift
    assert not calibrate(scores, contaminated=0.01, alpha=0.05).watches_drift
    assert not calibrate(scores, weights=np.ones(900)).watches_drift


def watched(limits: Limits, every: int) -> Watch:
    law = limits.laws["alarm"]
    return Watch(promise_test(law, learns=limits.exact["alarm"]), every, quiet_test(law, limits.above["alarm"]))


def _ever(watch: Watch, alarmed: np.ndarray) -> tuple[bool, bool]:
    paged = quiet = False
    for part in np.split(alarmed, len(alarmed) // 100):
        watch.add((int(part.sum()), len(part) - int(part.sum())))
        paged |= watch.log_evidence() >= log(1 / DELTA)
        quiet |= (watch.log_quiet_evidence() or 0) >= log(1 / DELTA)
    return paged, quiet
