"""tocsin calibrate"""

from __future__ import annotations

import dataclasses
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console

from tocsin.cli.calibrate_compare import show_comparison
from tocsin.cli.calibrate_options import CalibrateOptions
from tocsin.cli.calibrate_promise import Promised, promise_in_sweeps, promise_of
from tocsin.cli.engine_option import counted, in_parts
from tocsin.cli.from_options import command
from tocsin.cli.recording_findings import inspect_recording
from tocsin.cli.row_choice import Choice, chosen_rows, of_sessions
from tocsin.cli.scored_recording import ScoredRecording, require_finite
from tocsin.offline.engine import HERE, engine_of
from tocsin.offline.scoring import responses_of
from tocsin.recording.division import Division, calibration_rows, unseen_rows
from tocsin.recording.reading import SESSION, RecordedFile, Recording
from tocsin_calibration import Bundle, CalibrationError, Promise, uniforms
from tocsin_calibration import compare as compare_promises
from tocsin_calibration.wording import of_scales

COMPARISON_SHARE = 1 / 3  # of the responses that neither calibration has seen, kept to compare both on


@command(CalibrateOptions)
def calibrate(options: CalibrateOptions) -> None:
    """Calibrate thresholds on safe responses, and promise the false-alarm rate."""
    source = Bundle.read(options.bundle)
    if not options.alphas:
        raise CalibrationError("--warning 0 and --critical 0 leave no severity to promise for; give one of them a rate")
    if options.warning and options.critical > options.warning:
        raise CalibrationError(
            f"critical alarms are the rarer ones: --critical {options.critical:g} exceeds --warning {options.warning:g}"
        )
    console = Console(highlight=False, soft_wrap=True)
    recording = responses_of(source, options.data, options.model, options.other_signals)
    unseen, fresh = _rows_not_fitted_on(source, recording, options, console), None
    rows, facts, promised = unseen.rows, dict[str, Any](), None
    if options.compare:
        fresh, unseen = _split_for_comparison(unseen, options.sessions, options.seed)
    elif in_parts(options.on, unseen.rows) and options.of_each_by_itself:
        with counted(console, "counting", unseen.rows) as progress:
            promised = promise_in_sweeps(source, unseen, options, engine_of(options.on), progress)
    if promised is None:
        _require_here(options.on)
        looked = inspect_recording(ScoredRecording(source, unseen), options, source.scorer.detectors, console)
        rows, facts = looked.scored.rows, looked.facts
        promised = promise_of(source, looked.scored, options, _scales(source, recording, options, console))
        if fresh is not None:
            _show_comparison(source, promised, looked.scored, ScoredRecording(source, fresh), options, console)
            if options.out is None:
                console.print("nothing was written; name a bundle with --out to take the candidate")
                return
    path = options.out or options.bundle
    written = dataclasses.replace(
        source,
        promise=promised.promise,
        risk=promised.risk or source.risk,
        provenance={**source.provenance, "calibrated": _provenance(recording, rows, facts, promised, options)},
    ).write(path)
    console.print(f"{path} ({written.digest[:19]}) promises, on {rows:,} responses it was not fitted on:")
    _print_promise(console, promised, options)


def _rows_not_fitted_on(bundle: Bundle, recording: Recording, options: CalibrateOptions, console: Console) -> Recording:
    """The responses to calibrate on: chosen by the options, without those used in fitting. Raises CalibrationError."""
    fitted, division = bundle.provenance.get("fitted", {}), Division(options.share, options.seed, options.sessions)

    def rows(file: RecordedFile) -> Any:
        calibrates = calibration_rows(file, fitted, division)
        return calibrates & unseen_rows(file, bundle.provenance) if options.compare else calibrates

    named = of_sessions(recording.where(rows), options.only, options.sessions or SESSION, console)
    finite = require_finite(named, options.leave_out_broken, console, bundle.scorer.masked)
    choice = Choice(options.exclude or [], options.newest, options.sample, options.seed, options.sessions)
    unseen = chosen_rows(finite, choice, console, options.data)
    if not unseen.rows:
        by = "fitting, or for the calibration to compare with" if options.compare else "fitting"
        raise CalibrationError(
            f"{options.data}: every row was used for {by}; record more, or fit again with a smaller --share"
        )
    return unseen


def _scales(
    bundle: Bundle, calibrated: Recording, options: CalibrateOptions, console: Console
) -> ScoredRecording | None:
    """The responses of --scales, but for what may be calibrated on. Raises CalibrationError when none are left."""
    if options.scales is None:
        return None
    shared = {file.sha256 for file in calibrated.files}
    fitted, division = bundle.provenance.get("fitted", {}), Division(options.share, options.seed, options.sessions)

    def rows(file: RecordedFile) -> Any:
        return file.mask & ~calibration_rows(file, fitted, division) if file.sha256 in shared else file.mask

    apart = responses_of(bundle, options.scales, options.model).where(rows)
    named = of_sessions(apart, options.only, options.sessions or SESSION, console)
    finite = require_finite(named, options.leave_out_broken, console, bundle.scorer.masked)
    if not finite.rows:
        raise CalibrationError(
            f"{options.scales}: all of it may be calibrated on; name another recording with --scales, such as the one "
            f"that the detectors were fitted on, or leave it out"
        )
    return ScoredRecording(bundle, finite)


def _show_comparison(
    bundle: Bundle,
    promised: Promised,
    scored: ScoredRecording,
    new: ScoredRecording,
    options: CalibrateOptions,
    console: Console,
) -> None:
    """Print a comparison of the new promise, made on `scored`, with the bundle's, on new responses."""
    current = bundle.require_promise(options.bundle)
    names = None if options.sessions is None else (new.names(options.sessions), scored.names(options.sessions))
    show_comparison(
        console, compare_promises(current, promised.promise, new.scores, scored.scores, names, seed=options.seed)
    )


def _provenance(
    recording: Recording, rows: int, facts: dict[str, Any], promised: Promised, options: CalibrateOptions
) -> dict[str, Any]:
    """What the bundle records about the origin of its promise. `facts` are what was found in the recording before."""
    return {
        "timestamp": time.time(),
        "tocsin": version("tocsin"),
        "rows": rows,
        **({"look": {**facts, "as_is": options.as_is}} if facts or options.as_is else {}),
        **Division(options.share, options.seed, options.sessions).facts(),
        **({} if options.scales is None else {"scales": options.scales.name}),
        "files": {file.sha256: file.path.name for file in recording.files},
        **({} if promised.power is None else {"power": promised.power}),
    }


def _require_here(on: str) -> None:
    if on != HERE:
        raise CalibrationError(
            "--scales, --inputs, --groups, --by-class, --weights, --target, --classes, --sessions, --correct and "
            "--compare need all scores in one memory: leave --on out"
        )


def _split_for_comparison(unseen: Recording, sessions: str | None, seed: int) -> tuple[Recording, Recording]:
    """Split off a third of the responses, or of the sessions."""
    names = [""] * unseen.rows if sessions is None else [str(name) for name in unseen.column(sessions)]
    first = uniforms([f"aside/{name or row}" for row, name in enumerate(names)], seed) <= COMPARISON_SHARE
    return unseen.take(np.flatnonzero(first)), unseen.take(np.flatnonzero(~first))


def _shared_text(promise: Promise) -> str:
    if promise.groups and promise.others is None:
        return ", and too few all together: nothing is promised for them, and no evidence gathered"
    carried = promise.remaining.n
    return f", so they have one together, with all groups that may come ({carried:,} responses)"


def _print_promise(console: Console, promised: Promised, options: CalibrateOptions) -> None:
    """Print what is promised, and for which responses."""
    promise, risk = promised.promise, promised.risk
    for line in str(promise).splitlines():
        console.print(f"  {line}")
    if (scales := of_scales(promise)) is not None:
        console.print(f"  {scales}")
    if promise.groups and promise.sessions is None:
        of_class = "" if promise.classes is None else f"classes by {promise.classes.signal} "
        console.print(f"  each on its own for: {of_class}{', '.join(promise.groups)}")
    if promise.pooled:
        console.print(
            f"  too few responses for a promise of their own{_shared_text(promise)}: {', '.join(promise.pooled)}"
        )
    if promise.combination is not None:
        weights = ", ".join(f"{name} {w:.2f}" for name, w in zip(promise.detectors, promise.combination, strict=True))
        console.print(f"  evidence is weighted: {weights}")
    if risk is not None:
        console.print(
            f"  answers are right with probabilities learnt from {promise.detectors[risk.column]} on {risk.labelled:,} "
            f"labelled responses ({options.correct_by}); say what they are worth under `risk` in the config"
        )
        if risk.selective is not None:
            by = f"{options.max_error:g} ({options.max_error_by})"
            console.print(f"  risk of wrong answers bounded at {by}: {risk.selective}")
