"""Claims about scales from outside calibration: all of it carries the promise, and the laws stay exact."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.exact import too_few, too_many, total_of

from tocsin_calibration import CalibrationError, Promise, SessionRule, Window, calibrate, calibrate_sessions
from tocsin_calibration.content import arrays_of, facts_of, promise_from

FAILURE = 1e-4 / 8  # each tail of the four tests below
FITTED = np.random.default_rng(7).normal(size=(100, 2)) * 0.3  # lower than what was not fitted on, as fitted rows are


def draw(random: np.random.Generator, rows: int) -> np.ndarray:
    """Scores of two detectors that go together."""
    common = random.normal(size=(rows, 1))
    return (common + random.normal(size=(rows, 2))) * np.array([1.0, 40.0])


@pytest.mark.long
@pytest.mark.parametrize("rule", ["any", "all", "learnt"])
def test_all_rows_carry_the_promise_and_alarms_follow_its_law(rule: str) -> None:
    random = np.random.default_rng(3)
    alarmed, laws = 0, []
    for _ in range(400):
        promise = calibrate(draw(random, 39), {"alarm": 0.05}, rule=rule, scales=FITTED, on_average=True)
        assert promise.n == 39
        severities = promise.judge(draw(random, 25)).severities
        alarmed += sum(severity is not None for severity in severities)
        laws.append((promise.laws["alarm"], 25))
    pmf = total_of(laws)
    assert too_many(pmf, alarmed) > FAILURE and too_few(pmf, alarmed) > FAILURE


@pytest.mark.long
@pytest.mark.parametrize("style", ["max", "band"])
def test_all_sessions_carry_the_promise_and_alarms_follow_its_law(style: str) -> None:
    random = np.random.default_rng(5)
    scales = [draw(random, 12) * 0.5 for _ in range(10)]
    alarmed, laws = 0, []
    rule = SessionRule(Window(3), style)  # type: ignore[arg-type]
    for _ in range(150):
        sessions = [draw(random, 12) for _ in range(19)]
        promise = calibrate_sessions(sessions, {"alarm": 0.05}, session=rule, scales=scales, on_average=True)
        assert promise.n == 19
        for _ in range(20):
            progress = promise.sessions.start()  # type: ignore[union-attr]
            promise.judge(draw(random, 12), sessions=[progress] * 12)
            alarmed += progress.severity is not None
        laws.append((promise.laws["alarm"], 20))
    pmf = total_of(laws)
    assert too_many(pmf, alarmed) > FAILURE and too_few(pmf, alarmed) > FAILURE


def test_fewer_suffice_than_where_a_third_sets_the_scales() -> None:
    random = np.random.default_rng(0)
    sessions = [draw(random, 12) for _ in range(25)]
    with pytest.raises(CalibrationError, match="are needed"):
        calibrate_sessions(sessions, {"alarm": 0.05})
    assert calibrate_sessions(sessions, {"alarm": 0.05}, scales=[FITTED]).n == 25
    with pytest.raises(CalibrationError, match="19 are needed, all of which carry the promise"):
        calibrate_sessions(sessions[:18], {"alarm": 0.05}, scales=[FITTED])


def test_confidence_takes_as_many_as_carry_it() -> None:
    rows = draw(np.random.default_rng(1), 59)
    assert calibrate(rows, {"alarm": 0.05}, scales=FITTED).limits.sure["alarm"] == 0.95
    few = calibrate(rows[:50], {"alarm": 0.05}, scales=FITTED)
    assert "(9 more responses would promise it" in str(few)


def test_single_detectors_are_watched_by_calibration_and_not_by_what_set_the_scales() -> None:
    rows = draw(np.random.default_rng(1), 59)
    promise = calibrate(rows, {"alarm": 0.05}, scales=FITTED)
    assert np.array_equal(promise.reference, np.sort(rows, axis=0))
    assert promise.scales is not None and np.array_equal(promise.scales, np.sort(FITTED, axis=0))


def test_a_bundle_keeps_the_scales() -> None:
    promise = calibrate(draw(np.random.default_rng(1), 59), {"alarm": 0.05}, scales=FITTED)
    again = promise_from(facts_of(promise), arrays_of(promise), promise.detectors, "")
    rows = draw(np.random.default_rng(2), 300)
    assert isinstance(again, Promise) and again.judge(rows) == promise.judge(rows)


@pytest.mark.parametrize("scales", [FITTED[:5], FITTED[:, :1], np.full((100, 2), np.nan)])
def test_scales_that_are_none_are_refused(scales: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match="scales"):
        calibrate(draw(np.random.default_rng(1), 59), {"alarm": 0.05}, scales=scales)


def test_groups_and_weights_take_scales_too() -> None:
    rows = draw(np.random.default_rng(1), 120)
    names = ["a", "b"] * 60
    assert calibrate(rows, {"alarm": 0.05}, groups=names, scales=FITTED).groups["a"].n == 60
    assert calibrate(rows, {"alarm": 0.05}, weights=np.ones(120), scales=FITTED).n == 120
    assert calibrate(rows, {"alarm": 0.05}, contaminated=0.02, scales=FITTED).n == 120
