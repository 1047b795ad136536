"""Claims about stretches of sessions that differ: the promise is for new sessions, or says that it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from tocsin_calibration import SessionRule, calibrate_sessions
from tocsin_calibration.content import arrays_of, facts_of, promise_from
from tocsin_calibration.thresholds.clustered import Clustered
from tocsin_calibration.thresholds.limits import Limits

FAILURE, ALPHA = 1e-4, 0.1


def recorded(
    random: np.random.Generator, sessions: int, stretches: int, spread: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Stretches' scores (n,) and their sessions (n,), with an intraclass correlation of 1/(1 + spread^2), 0.8."""
    session_of = np.repeat(np.arange(sessions), stretches)
    return random.normal(size=sessions)[session_of] + spread * random.normal(size=len(session_of)), session_of


@pytest.mark.long
def test_new_sessions_alarm_as_promised_although_sessions_differ() -> None:
    random, runs, alarms, plain = np.random.default_rng(51), 2_000, 0, 0
    for _ in range(runs):
        scores, session_of = recorded(random, 14, 20, 0.1)
        new = random.normal() + 0.1 * random.normal()
        alarms += new > Limits(scores, {"a": ALPHA}, clusters=session_of).thresholds["a"]
        plain += new > Limits(scores, {"a": ALPHA}).thresholds["a"]
    assert binom.sf(alarms - 1, runs, ALPHA) > FAILURE > binom.sf(plain - 1, runs, ALPHA)


@pytest.mark.long
def test_the_range_told_knows_how_few_sessions_there_were() -> None:
    """The rate over all new sessions lies within it, and seldom within that of as many independent stretches."""
    runs, inside, naive = 150, 0, 0
    everyone = np.random.default_rng(52).normal(size=20_000) * (1 + 0.25) ** 0.5
    for run in range(runs):
        scores, session_of = recorded(np.random.default_rng([53, run]), 40, 20)
        limits = Limits(scores, {"a": ALPHA}, clusters=session_of)
        rate = float((everyone > limits.thresholds["a"]).mean())
        low, high = limits.rate_range("a")
        inside += low <= rate <= high
        low, high = Limits(scores, {"a": ALPHA}).rate_range("a")
        naive += low <= rate <= high
    assert binom.cdf(inside, runs, 0.95) > FAILURE > binom.cdf(naive, runs, 0.95)


def test_the_correlation_is_that_of_an_analysis_of_variance() -> None:
    random = np.random.default_rng(54)
    scores, session_of = recorded(random, 300, 10)
    order = np.argsort(scores)
    clustered = Clustered.of(scores[order], session_of[order])
    assert clustered.correlation == pytest.approx(0.8, abs=0.05)  # of ranks, a little less than of the scores
    assert clustered.effective == round(
        3_000 / (1 + 9 * clustered.correlation)
    ) and clustered.weights.sum() == pytest.approx(300)
    alike = Clustered.of(np.sort(random.normal(size=3_000)), random.permutation(session_of))
    assert alike.correlation is not None and alike.correlation < 0.05
    assert Clustered.of(np.arange(9.0), np.zeros(9)).correlation is None


def test_sessions_stay_whole_and_what_is_known_is_said(tmp_path: Path) -> None:
    random = np.random.default_rng(55)
    sessions = [random.normal(size=(200, 1)) + random.normal() for _ in range(30)]
    promise = calibrate_sessions(sessions, {"warning": ALPHA}, session=SessionRule(every=10))
    assert promise.n == 20 * 20 and len(promise.reference) == 10 * 200  # 10 sessions set the scale, 20 carry
    assert "from 20 sessions that differ by an intraclass" in str(promise) and "too few" not in str(promise)
    again = promise_from(facts_of(promise), arrays_of(promise), promise.detectors, "")
    assert again.thresholds == promise.thresholds and str(again) == str(promise) and again.laws == promise.laws
    judged = promise.judge(np.linspace(-3, 4, 40)[:, None])
    assert [p <= ALPHA for p in judged.pvalues] == [s is not None for s in judged.severities]
    few = calibrate_sessions(sessions[:4], {"warning": ALPHA}, session=SessionRule(every=10))
    assert "too few to promise it for new sessions" in str(few)
