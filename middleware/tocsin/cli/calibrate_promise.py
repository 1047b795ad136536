"""From a recording's scores and what was asked for to a promise, and to what answers are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tocsin.cli.calibrate_options import CalibrateOptions
from tocsin.cli.scored_recording import ScoredRecording, failures_in
from tocsin.offline.calibrating import RecordedResponses
from tocsin.offline.engine import Engine
from tocsin.offline.scoring import ScoreReader, Scores, responses_of
from tocsin.recording.reading import Recording
from tocsin_calibration import (
    Bundle,
    CalibrationError,
    Promise,
    RiskPolicy,
    calibrate,
    calibrate_sessions,
    covariate_weights,
    fit_risk_policy,
    label_shift_weights,
)
from tocsin_calibration.dividing import reference_rows
from tocsin_calibration.online.inputs import InputsReference
from tocsin_calibration.sessions.grouping import rows_by_session
from tocsin_calibration.sweeps import calibrate_in_sweeps
from tocsin_calibration.thresholds.classes import Classes
from tocsin_calibration.thresholds.joint import LEARNT

MOST_COVARIATES = 512  # numbers a response that likelihood ratios are learnt from
ABSTAINS = "abstain_mass"  # the detector that reads the answer's own mass on abstaining


class Promised(NamedTuple):
    """A promise, what answers are worth where labels told, and of how many failures how many are caught by severity."""

    promise: Promise
    risk: RiskPolicy | None
    power: dict[str, list[int]] | None


def promise_of(
    bundle: Bundle, scored: ScoredRecording, options: CalibrateOptions, scales: ScoredRecording | None = None
) -> Promised:
    """Calibrate; `scales` are the responses that set the detectors' scales, if not a third of these.

    Raises CalibrationError or RecordingError on what cannot be had or does not go together.
    """
    teaching, measured = _failures(bundle, options)
    common = _common(bundle, options, teaching)
    risk = _risk(bundle, scored, options)
    if options.inputs and (options.sessions or options.weights or options.target or options.classes):
        raise CalibrationError(
            "--inputs watches responses one by one, of the same traffic: not with --sessions, --weights, --target or "
            "--classes"
        )
    if options.by_class is not None and (options.groups or options.sessions):
        raise CalibrationError("--by-class makes the classes groups: it goes with neither --groups nor --sessions")
    if options.sessions is not None:
        if options.groups or options.weights or options.target or options.classes or options.contaminated:
            raise CalibrationError(
                "--sessions goes with neither --groups, --weights, --target, --classes nor --contaminated"
            )
        sessions = _by_session(scored, options.sessions)
        others = None if scales is None else _by_session(scales, options.sessions)
        promise = calibrate_sessions(sessions, session=options.session_rule, scales=others, **common)
        return Promised(promise, risk, None)
    classes, groups = None, None if options.groups is None else scored.names(options.groups)
    if options.by_class is not None:
        classes, groups = _classes(bundle, scored, options.by_class)
    promise = calibrate(
        scored.scores,
        contaminated=options.contaminated,
        groups=groups,
        weights=_weights(bundle, scored, options),
        scales=None if scales is None else scales.scores,
        normalised=options.weights is None,  # ratios that are learnt are on their own scale, a column's may not be
        **common,
    )
    if classes is not None:
        if not promise.groups:
            raise CalibrationError(_no_class(groups or [], promise, classes))
        promise.classes = classes
    if options.inputs:
        if not promise.watches_drift:
            raise CalibrationError("--inputs needs calibration responses that are all safe: not with --contaminated")
        promise.inputs = _inputs(bundle, scored, options, scales)
    return Promised(promise, risk, None if measured is None else _power(promise, measured))


def _classes(bundle: Bundle, scored: ScoredRecording, name: str) -> tuple[Classes, list[str]]:
    """What names classes, and each response's."""
    if name in bundle.scorer.free_lengths:
        raise CalibrationError(f"--by-class {name}: classes are named by a signal of a fixed length")
    classes = Classes(name, scored.signal(name).shape[1])
    return classes, scored.classes(classes)


def _no_class(names: Sequence[str], promise: Promise, classes: Classes) -> str:
    """Why no class has a promise of its own."""
    needed = max(promise.terms.required_size(alpha) for alpha in promise.alphas.values())
    (largest, rows), *_ = Counter(names).most_common(1)
    return (
        f"--by-class {classes.signal}: no class has the {needed:,} responses that carry a promise of its own (the "
        f"largest, '{largest}', has {rows:,} in all, a third of which set the detectors' scales unless --scales does); "
        f"record more, choose larger rates, or leave --by-class out"
    )


def _inputs(
    bundle: Bundle, scored: ScoredRecording, options: CalibrateOptions, scales: ScoredRecording | None
) -> InputsReference:
    """Directions from the responses that set the scales, and some of the others. Raises CalibrationError."""
    names = tuple(dict.fromkeys(options.inputs or ()))
    for name in names:
        if name not in bundle.scorer.signals or name in bundle.scorer.free_lengths:
            fixed = ", ".join(set(bundle.scorer.signals) - set(bundle.scorer.free_lengths)) or "none"
            raise CalibrationError(f"--inputs {name}: signals of a fixed length that the bundle reads are {fixed}")
    signals = np.hstack([scored.signal(name) for name in names])
    if scales is not None:
        first = np.hstack([scales.signal(name) for name in names])
        return InputsReference.of(names, first, signals, options.seed)
    a = reference_rows(len(signals), options.seed)
    return InputsReference.of(names, signals[a], np.delete(signals, a, axis=0), options.seed)


def promise_in_sweeps(
    bundle: Bundle, recording: Recording, options: CalibrateOptions, engine: Engine, on_rows: Callable[[int], None]
) -> Promised:
    """The same of more responses than memory holds, where each stands by itself; `told` hears how many were counted."""
    teaching, measured = _failures(bundle, options)
    responses = RecordedResponses(ScoreReader.of(bundle), recording, engine, on_rows)
    promise = calibrate_in_sweeps(responses, contaminated=options.contaminated, **_common(bundle, options, teaching))
    return Promised(promise, None, None if measured is None else _power(promise, measured))


def _by_session(scored: ScoredRecording, column: str) -> list[Scores]:
    return [scored.scores[rows] for rows in rows_by_session(scored.names(column))]


def _failures(bundle: Bundle, options: CalibrateOptions) -> tuple[Scores | None, ScoredRecording | None]:
    """Scores of failures to learn from, and failures to measure on."""
    if options.failures is None:
        return None, None
    bad = failures_in(bundle, options.failures, options.model, options.other_signals)
    if options.rule != LEARNT:
        return bad.scores, bad
    order = np.random.default_rng(options.seed).permutation(bad.rows)
    teaching, measured = np.array_split(order, 2)  # what has taught the rule says nothing of what it catches
    return bad.scores[teaching], bad.take(measured)


def _common(bundle: Bundle, options: CalibrateOptions, teaching: Scores | None) -> dict[str, Any]:
    """The arguments that promises for responses and for sessions share."""
    return {
        "alpha": options.alphas,
        "rule": options.rule,
        "detectors": bundle.scorer.detectors,
        "seed": options.seed,
        "confidence": options.confidence,
        "on_average": options.on_average,
        "failures": teaching,
    }


def _risk(bundle: Bundle, scored: ScoredRecording, options: CalibrateOptions) -> RiskPolicy | None:
    """How often answers are right by their scores, from the column of --correct; None without it."""
    if options.correct is None:
        if options.max_error is not None:
            raise CalibrationError("--max-error needs to know which answers were right: name a column with --correct")
        return None
    detectors = bundle.scorer.detectors
    risk = fit_risk_policy(
        scored.scores,
        scored.labels(options.correct),
        way=options.correct_by,
        idk=detectors.index(ABSTAINS) if ABSTAINS in detectors else None,
        seed=options.seed,
        max_error=options.max_error,
        method=options.max_error_by,
    )
    if risk.selective is not None and risk.selective.threshold is None:
        raise CalibrationError(f"--max-error {options.max_error:g}: {risk.selective}")
    return risk


def _weights(bundle: Bundle, scored: ScoredRecording, options: CalibrateOptions) -> Any:
    """Likelihood ratios (n,) to the traffic expected, None where the promise is for traffic as it is."""
    if sum(given is not None for given in (options.weights, options.target, options.classes)) > 1:
        raise CalibrationError(
            "likelihood ratios come from a column (--weights), a recording (--target) or classes (--classes): choose "
            "one"
        )
    if options.weights is not None:
        return scored.numbers(options.weights)
    if options.classes is not None:
        return _by_class(scored.names(options.classes), options.expected or ())
    if options.target is None:
        return None
    width = sum(bundle.scorer.signals.values())
    if not 0 < width <= MOST_COVARIATES:
        raise CalibrationError(
            f"likelihood ratios cannot be learnt from {width or 'signals of free length, or no'} numbers a response; "
            f"give them as a column (--weights)"
        )
    expected = ScoredRecording(bundle, responses_of(bundle, options.target, options.model))
    return covariate_weights(scored.signals(), expected.signals())


def _by_class(labels: list[str], expected: Sequence[str]) -> Any:
    """Likelihood ratios (n,) by the classes of labels, whose expected shares are CLASS=SHARE texts."""
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


def _power(promise: Promise, bad: ScoredRecording) -> dict[str, list[int]]:
    """Of how many failures how many are caught, by severity; for `tocsin bundle show --failure-rate`."""
    groups = None if promise.classes is None else bad.classes(promise.classes)
    severities = promise.judge(bad.scores, groups).severities
    return {
        name: [sum(s is not None and promise.alphas[s] <= alpha for s in severities), len(severities)]
        for name, alpha in promise.alphas.items()
    }
