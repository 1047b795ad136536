"""From a recording's scores and what was asked for to a promise, and to what answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tocsin.cli.scored import ScoredRecording, failures_in
from tocsin.offline.calibrating import RecordedResponses
from tocsin.offline.engine import Engine
from tocsin.offline.scoring import Scores, Scoring, responses_of
from tocsin.recording.reading import Recording
from tocsin_calibration import (
    Bundle,
    CalibrationError,
    Promise,
    RiskPolicy,
    SessionRule,
    calibrate,
    calibrate_sessions,
    covariate_weights,
    fit_risk_policy,
    label_shift_weights,
)
from tocsin_calibration.sessions.grouping import rows_by_session
from tocsin_calibration.sweeps import calibrate_in_sweeps
from tocsin_calibration.thresholds.joint import LEARNT

MOST_COVARIATES = 512  # numbers a response that likelihood ratios are learnt from
ABSTAINS = "abstain_mass"  # the detector that reads the answer's own mass on abstaining


@dataclass(frozen=True)
class Wanted:
    """What `tocsin calibrate` was asked for; columns and recordings by name."""

    alphas: Mapping[str, float]
    rule: str
    confidence: float | None
    on_average: bool
    contaminated: float
    groups: str | None
    weights: str | None
    target: Path | None
    classes: str | None
    expected: tuple[str, ...]
    sessions: str | None
    session_rule: SessionRule
    failures: Path | None
    correct: str | None
    correct_by: str
    max_error: float | None
    max_error_by: str
    model: str | None
    seed: int

    @property
    def of_each_by_itself(self) -> bool:
        """Whether nothing needs more than one response's scores at a time: no other columns, no sessions."""
        columns = (self.groups, self.weights, self.target, self.classes, self.sessions, self.correct)
        return not any(columns)


class Promised(NamedTuple):
    """A promise, what answers are worth where labels told, and of how many failures how many are caught by severity."""

    promise: Promise
    risk: RiskPolicy | None
    power: dict[str, list[int]] | None


def promise_of(bundle: Bundle, scored: ScoredRecording, wanted: Wanted) -> Promised:
    """Calibrate. Raises CalibrationError or RecordingError on what cannot be had or does not go together."""
    teaching, measured = _failures(bundle, wanted)
    common = _common(bundle, wanted, teaching)
    risk = _risk(bundle, scored, wanted)
    if wanted.sessions is not None:
        if wanted.groups or wanted.weights or wanted.target or wanted.classes or wanted.contaminated:
            raise CalibrationError(
                "--sessions goes with neither --groups, --weights, --target, --classes nor --contaminated"
            )
        sessions = [scored.scores[rows] for rows in rows_by_session(scored.names(wanted.sessions))]
        return Promised(calibrate_sessions(sessions, session=wanted.session_rule, **common), risk, None)
    promise = calibrate(
        scored.scores,
        contaminated=wanted.contaminated,
        groups=None if wanted.groups is None else scored.names(wanted.groups),
        weights=_weights(bundle, scored, wanted),
        normalised=wanted.weights is None,  # ratios that are learnt are on their own scale, a column's may not be
        **common,
    )
    return Promised(promise, risk, None if measured is None else _power(promise, measured))


def promise_in_sweeps(
    bundle: Bundle, recording: Recording, wanted: Wanted, engine: Engine, on_rows: Callable[[int], None]
) -> Promised:
    """The same of more responses than memory holds, where each stands by itself; `told` hears how many were counted."""
    teaching, measured = _failures(bundle, wanted)
    responses = RecordedResponses(Scoring.of(bundle), recording, engine, on_rows)
    promise = calibrate_in_sweeps(responses, contaminated=wanted.contaminated, **_common(bundle, wanted, teaching))
    return Promised(promise, None, None if measured is None else _power(promise, measured))


def _failures(bundle: Bundle, wanted: Wanted) -> tuple[Scores | None, Scores | None]:
    """Scores of failures to learn from, and to measure on."""
    if wanted.failures is None:
        return None, None
    bad = failures_in(bundle, wanted.failures, wanted.model).scores
    if wanted.rule != LEARNT:
        return bad, bad
    order = np.random.default_rng(wanted.seed).permutation(len(bad))
    teaching, measured = np.array_split(order, 2)  # what has taught the rule says nothing of what it catches
    return bad[teaching], bad[measured]


def _common(bundle: Bundle, wanted: Wanted, teaching: Scores | None) -> dict[str, Any]:
    return {
        "alpha": wanted.alphas,
        "rule": wanted.rule,
        "detectors": bundle.scorer.detectors,
        "seed": wanted.seed,
        "confidence": wanted.confidence,
        "on_average": wanted.on_average,
        "failures": teaching,
    }


def _risk(bundle: Bundle, scored: ScoredRecording, wanted: Wanted) -> RiskPolicy | None:
    if wanted.correct is None:
        if wanted.max_error is not None:
            raise CalibrationError("--max-error needs to know which answers were right: name a column with --correct")
        return None
    detectors = bundle.scorer.detectors
    risk = fit_risk_policy(
        scored.scores,
        scored.labels(wanted.correct),
        way=wanted.correct_by,
        idk=detectors.index(ABSTAINS) if ABSTAINS in detectors else None,
        seed=wanted.seed,
        max_error=wanted.max_error,
        method=wanted.max_error_by,
    )
    if risk.selective is not None and risk.selective.threshold is None:
        raise CalibrationError(f"--max-error {wanted.max_error:g}: {risk.selective}")
    return risk


def _weights(bundle: Bundle, scored: ScoredRecording, wanted: Wanted) -> Any:
    if sum(given is not None for given in (wanted.weights, wanted.target, wanted.classes)) > 1:
        raise CalibrationError(
            "likelihood ratios come from a column (--weights), a recording (--target) or classes (--classes): choose "
            "one"
        )
    if wanted.weights is not None:
        return scored.numbers(wanted.weights)
    if wanted.classes is not None:
        return _by_class(scored.names(wanted.classes), wanted.expected)
    if wanted.target is None:
        return None
    width = sum(bundle.scorer.signals.values())
    if not 0 < width <= MOST_COVARIATES:
        raise CalibrationError(
            f"likelihood ratios cannot be learnt from {width or 'signals of free length, or no'} numbers a response; "
            f"give them as a column (--weights)"
        )
    expected = ScoredRecording(bundle, responses_of(bundle, wanted.target, wanted.model))
    return covariate_weights(scored.signals(), expected.signals())


def _by_class(labels: list[str], expected: Sequence[str]) -> Any:
    shares: dict[str, float] = {}
    for text in expected:
        name, equals, share = text.rpartition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            equals = ""
        if not equals:
            raise CalibrationError(f"--expected is CLASS=SHARE, such as cat=0.3, not '{text}'")
    names = list(shares)
    if unknown := sorted(set(labels) - set(names)):
        raise CalibrationError(f"--expected does not say how often class '{unknown[0]}' comes; 0 leaves it out")
    return label_shift_weights([names.index(label) for label in labels], list(shares.values()))


def _power(promise: Promise, bad: Scores) -> dict[str, list[int]]:
    """Of how many failures how many are caught, by severity; for `tocsin bundle show --failure-rate`."""
    severities = promise.judge(bad).severities
    return {
        name: [sum(s is not None and promise.alphas[s] <= alpha for s in severities), len(severities)]
        for name, alpha in promise.alphas.items()
    }
