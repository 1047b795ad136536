"""Claims about sessions: windows, bands, steps and stretches, each with its promise."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.exact import too_few, too_many, total_of
from hypothesis import given
from hypothesis import strategies as st

from tocsin_calibration import CalibrationError, FalseAlarmLaw, SessionRule, Window, calibrate_sessions, session_metrics
from tocsin_calibration.sessions.bands import Band
from tocsin_calibration.sessions.grouping import rows_by_session
from tocsin_calibration.sessions.windows import Running

FAILURE = 1e-4
Session = np.ndarray


def walk(random: np.random.Generator, shortest: int = 8, longest: int = 40) -> Session:
    """A safe session: wandering, rising with time, noisier at the start, of any length; two detectors."""
    steps = int(random.integers(shortest, longest))
    t = np.arange(steps)[:, None]
    noise = random.normal(size=(steps, 2)) * (1 + 2 * (t < 5))
    return 0.1 * t + noise + random.normal(size=(steps, 2)).cumsum(axis=0) * 0.2


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.integers(1, 70),
    st.sampled_from(["sum", "mean"]),
)
def test_a_running_window_is_the_window_over_all_to_the_bit(scores: list[float], width: int, how: str) -> None:
    window = Window(width, how)  # type: ignore[arg-type]
    running = Running(window)
    assert [running.push(score) for score in scores] == window.rolling(scores).tolist()


def test_windows_sum_and_average_the_last_scores() -> None:
    scores = [1.0, 2.0, 3.0, 4.0]
    assert Window(3, "sum").rolling(scores).tolist() == [1, 3, 6, 9]
    assert Window(3, "mean").rolling(scores).tolist() == [1, 1.5, 2, 3]
    assert Window().rolling(scores).tolist() == scores


@pytest.mark.long
@pytest.mark.parametrize("style", ["max", "band"])
@pytest.mark.parametrize("width", [1, 5])
def test_safe_sessions_alarm_as_often_as_promised_and_no_oftener(style: str, width: int) -> None:
    random = np.random.default_rng(width)
    alarmed, laws = 0, []
    for seed in range(30):
        safe = [walk(random) for _ in range(120)]
        rule = SessionRule(Window(width), style)  # type: ignore[arg-type]
        promise = calibrate_sessions(safe, {"warning": 0.1}, session=rule, seed=seed, rule="all")
        fresh = [walk(random) for _ in range(60)]
        for session in fresh:
            progress = promise.sessions.start()  # type: ignore[union-attr]
            promise.judge(session, sessions=[progress] * len(session))
            alarmed += progress.severity is not None
        laws.append((promise.laws["warning"], len(fresh)))
    pmf = total_of(laws)
    assert too_many(pmf, alarmed) > FAILURE / 8 and too_few(pmf, alarmed) > FAILURE / 8


@pytest.mark.long
def test_steps_have_a_promise_of_their_own_and_none_for_the_session() -> None:
    random = np.random.default_rng(3)
    at_step, sessions_alarmed, laws = 0, 0, []
    for seed in range(30):
        promise = calibrate_sessions(
            [walk(random) for _ in range(120)], {"warning": 0.1}, session=SessionRule(style="step"), seed=seed
        )
        fresh = [walk(random) for _ in range(60)]
        for session in fresh:
            progress = promise.sessions.start()  # type: ignore[union-attr]
            severities = promise.judge(session, sessions=[progress] * len(session)).severities
            at_step += severities[4] is not None
            sessions_alarmed += any(severities)
        laws.append((promise.groups["5"].laws["warning"], len(fresh)))
    assert too_many(total_of(laws), at_step) > FAILURE / 2 and too_few(total_of(laws), at_step) > FAILURE / 2
    assert too_many(total_of(laws), sessions_alarmed) < FAILURE


def test_steps_that_few_sessions_reached_get_the_threshold_of_whole_sessions() -> None:
    random = np.random.default_rng(4)
    sessions = [walk(random, 8, 10) for _ in range(100)] + [walk(random, 30, 31) for _ in range(5)]
    promise = calibrate_sessions(sessions, {"warning": 0.1}, session=SessionRule(style="step"))
    assert "8" in promise.groups and "20" not in promise.groups
    assert promise.thresholds["warning"] >= max(g.thresholds["warning"] for g in promise.groups.values()) - 1e-12


def test_sessions_that_never_end_are_promised_for_in_stretches() -> None:
    random = np.random.default_rng(5)
    alarmed, laws = 0, []
    for seed in range(20):
        endless = [random.normal(size=(2_500, 1)) for _ in range(2)]
        promise = calibrate_sessions(endless, {"warning": 0.1}, session=SessionRule(Window(5), every=25), seed=seed)
        assert promise.unit == "stretches of 25 responses"
        progress = promise.sessions.start()  # type: ignore[union-attr]
        fresh = random.normal(size=(25 * 50 + 1, 1))  # the one more ends the fiftieth
        for piece in np.array_split(fresh, 7):  # however it is cut
            promise.judge(piece, sessions=[progress] * len(piece))
        assert len(progress.ended) == 50
        alarmed += sum(severity is not None for severity in progress.ended)
        laws.append((promise.laws["warning"], 50))
    assert too_many(total_of(laws), alarmed) > FAILURE / 2 and too_few(total_of(laws), alarmed) > FAILURE / 2


@pytest.mark.parametrize("style", ["max", "band", "step"])
def test_a_session_judged_as_it_runs_is_the_session_judged_at_once(style: str) -> None:
    random = np.random.default_rng(6)
    rule = SessionRule(Window(4, "sum"), style)  # type: ignore[arg-type]
    promise = calibrate_sessions([walk(random) for _ in range(90)], {"warning": 0.1}, session=rule)
    session = walk(random) + 2
    at_once, as_it_runs = promise.sessions.start(), promise.sessions.start()  # type: ignore[union-attr]
    together = promise.judge(session, sessions=[at_once] * len(session))
    one_by_one = [promise.judge(session[t : t + 1], sessions=[as_it_runs]) for t in range(len(session))]
    assert [j.pvalues[0] for j in one_by_one] == together.pvalues
    assert [j.severities[0] for j in one_by_one] == together.severities
    assert at_once.severity == as_it_runs.severity


@pytest.mark.long
def test_a_band_that_forgets_the_sign_or_interpolates_fails_the_same_judge() -> None:
    """The two mistakes that are in print: D with its sign reversed, and an interpolated quantile at small n."""
    random = np.random.default_rng(7)
    n, fresh = 19, 40
    reversed_sign = interpolated = right = 0
    for _ in range(160):
        sessions = [walk(random)[:, 0] for _ in range(10 + n + fresh)]
        band = Band.of(sessions[:10], 0.1)
        courses = [band.beyond(s) for s in sessions[10:]]
        d = np.array([c.max() for c in courses[:n]])
        later = np.array([c.max() for c in courses[n:]])
        promise_k = 18  # ceil(20 * 0.9)
        right += int((later > np.sort(d)[promise_k - 1]).sum())
        interpolated += int((later > np.quantile(d, 0.9)).sum())
        wrong = np.array([(-c).max() for c in courses[:n]])
        reversed_sign += int((later > np.sort(wrong)[promise_k - 1]).sum())
    pmf = total_of([(FalseAlarmLaw.at(n, 0.1), fresh)] * 160)
    assert too_many(pmf, right) > FAILURE
    assert too_many(pmf, interpolated) < FAILURE
    assert min(too_many(pmf, reversed_sign), too_few(pmf, reversed_sign)) < FAILURE


def test_a_band_goes_on_beyond_the_longest_session_and_never_closes() -> None:
    band = Band.of([np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0]), np.array([0.0, 3.0])], 0.5)
    assert (band.spread > 0).all()
    assert len(band.beyond(np.zeros(50))) == 50
    with pytest.raises(CalibrationError, match="at least two safe sessions"):
        Band.of([np.zeros(3)], 0.1)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", ""]), st.integers(0, 5)), max_size=40))
def test_rows_go_to_their_sessions_in_the_order_of_their_times(rows: list[tuple[str, int]]) -> None:
    names, times = [name for name, _ in rows], [time for _, time in rows]
    parts = rows_by_session(names, times)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(rows)))
    for part in parts:
        assert len({names[row] for row in part}) == 1 and (names[part[0]] or len(part) == 1)
        assert [times[row] for row in part] == sorted(times[row] for row in part)
    assert len({names[part[0]] for part in parts if names[part[0]]}) == sum(bool(names[part[0]]) for part in parts)
    assert [times[part[0]] for part in parts] == sorted(times[part[0]] for part in parts)


def test_session_metrics_are_fipers() -> None:
    metrics = session_metrics([None, 3, 5, None], [10, 10, 10, 10], [False, False, True, True])
    assert metrics.tpr == 0.5 and metrics.tnr == 0.5 and metrics.balanced_accuracy == 0.5
    assert metrics.detection_time == 0.5 and metrics.twa == 0.5 * (0.5 + (0.5 + 0) / 2)
    assert np.isnan(session_metrics([None], [3], [False]).tpr)
    with pytest.raises(CalibrationError, match="cannot have alarmed at step 7"):
        session_metrics([7], [5], [True])


@pytest.mark.parametrize(
    ("sessions", "more", "message"),
    [
        ([np.zeros((4, 1))] * 10, {}, r"10 safe sessions cannot keep alpha = 0.01: \d+ are needed"),
        ([np.zeros((0, 1))] + [np.zeros((4, 1))] * 200, {}, "1 sessions have no responses"),
        ([np.full((4, 1), np.nan)] * 200, {}, "NaN or infinite"),
        ([np.zeros((4, 1))] * 200, {"session": SessionRule(every=9)}, "no session has 9 steps"),
    ],
)
def test_sessions_that_cannot_carry_a_promise_are_refused(sessions: list, more: dict, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        calibrate_sessions(sessions, **more)


def test_rules_that_make_no_sense_are_refused() -> None:
    for make in (lambda: Window(0), lambda: Window(3, "median"), lambda: SessionRule(style="curve"),  # type: ignore[arg-type]
                 lambda: SessionRule(every=0)):  # fmt: skip
        with pytest.raises(CalibrationError):
            make()
