"""tocsin calibrate"""

from __future__ import annotations

import dataclasses
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console

from tocsin.cli import calibrate_options as options
from tocsin.cli.chosen import Choice, chosen, of_sessions
from tocsin.cli.comparison import show_comparison
from tocsin.cli.looking import look
from tocsin.cli.on import On, counted, in_parts
from tocsin.cli.promising import Promised, Wanted, promise_in_sweeps, promise_of
from tocsin.cli.scored import ScoredRecording, require_finite
from tocsin.offline.engine import HERE, engine_of
from tocsin.offline.scoring import responses_of
from tocsin.recording.division import Division, calibration_rows, unseen_rows
from tocsin.recording.reading import SESSION, RecordedFile, Recording
from tocsin_calibration import Bundle, CalibrationError, Promise, SessionRule, Window, uniforms
from tocsin_calibration import compare as compare_promises

FRESH = 1 / 3  # of the responses that neither calibration has seen, kept to compare both on


def calibrate(
    bundle: options.Bundle,
    data: options.Data,
    out: options.Out = None,
    warning: options.Warning = 0.05,
    critical: options.Critical = 0.01,
    rule: options.Rule = "any",
    confidence: options.Confidence = None,
    on_average: options.OnAverage = False,
    contaminated: options.Contaminated = 0.0,
    groups: options.Groups = None,
    weights: options.Weights = None,
    target: options.Target = None,
    classes: options.Classes = None,
    expected: options.Expected = None,
    sessions: options.Sessions = None,
    window: options.Window = 1,
    how: options.How = "mean",
    style: options.Style = "max",
    every: options.Every = None,
    failures: options.Failures = None,
    correct: options.Correct = None,
    correct_by: options.CorrectBy = "venn_abers",
    max_error: options.MaxError = None,
    max_error_by: options.MaxErrorBy = "crc",
    only: options.Only = None,
    exclude: options.Exclude = None,
    newest: options.Newest = None,
    sample: options.Sample = None,
    compare: options.Compare = False,
    model: options.Model = None,
    leave_out_broken: options.LeaveOutBroken = False,
    share: options.Share = 1.0,
    seed: options.Seed = 0,
    as_is: options.AsIs = False,
    on: On = HERE,
) -> None:
    """Learn from safe responses which scores to alarm at, and promise the false-alarm rate."""
    source = Bundle.read(bundle)
    if critical > warning:
        raise CalibrationError(
            f"critical alarms are the rarer ones: --critical {critical:g} exceeds --warning {warning:g}"
        )
    console = Console(highlight=False, soft_wrap=True)
    recording = responses_of(source, data, model)
    fitted, division = source.provenance.get("fitted", {}), Division(share, seed, sessions)

    def rows(file: RecordedFile) -> Any:
        chosen = calibration_rows(file, fitted, division)
        return chosen & unseen_rows(file, source.provenance) if compare else chosen

    meant = of_sessions(recording.where(rows), only, sessions or SESSION, console)
    unseen = require_finite(meant, leave_out_broken, console, source.scorer.masked)
    unseen = chosen(unseen, Choice(exclude or [], newest, sample, seed, sessions), console, data)
    if not unseen.rows:
        by = "fitting, or for the calibration to compare with" if compare else "fitting"
        raise CalibrationError(f"{data}: every row was used for {by}; record more, or fit again with a smaller --share")
    fresh = None
    if compare:
        fresh, unseen = _aside(unseen, sessions, seed)
    wanted = Wanted(
        alphas={"warning": warning, "critical": critical},
        rule=rule,
        confidence=confidence,
        on_average=on_average,
        contaminated=contaminated,
        groups=groups,
        weights=weights,
        target=target,
        classes=classes,
        expected=tuple(expected or ()),
        sessions=sessions,
        session_rule=SessionRule(Window(window, how), style, every),  # type: ignore[arg-type]
        failures=failures,
        correct=correct,
        correct_by=correct_by,
        max_error=max_error,
        max_error_by=max_error_by,
        model=model,
        seed=seed,
    )
    rows_used, seen_facts = unseen.rows, dict[str, Any]()
    if in_parts(on, unseen.rows) and wanted.of_each_by_itself and fresh is None:
        with counted(console, "counting", unseen.rows) as progress:
            promised = promise_in_sweeps(source, unseen, wanted, engine_of(on), progress)
    else:
        _require_here(on)
        scored, seen_facts, _ = look(
            ScoredRecording(source, unseen), wanted, tuple(source.scorer.detectors), console, as_is
        )
        rows_used = scored.rows
        promised = promise_of(source, scored, wanted)
    if fresh is not None:
        current, new = source.require_promise(bundle), ScoredRecording(source, fresh)
        names = None if sessions is None else (new.names(sessions), scored.names(sessions))
        show_comparison(
            console, compare_promises(current, promised.promise, new.scores, scored.scores, names, seed=seed)
        )
        if out is None:
            console.print("nothing was written; name a bundle with --out to take the candidate")
            return
    calibrated = {
        "timestamp": time.time(),
        "tocsin": version("tocsin"),
        "rows": rows_used,
        **({"look": {**seen_facts, "as_is": as_is}} if seen_facts or as_is else {}),
        **division.facts(),
        "files": {file.sha256: file.path.name for file in recording.files},
        **({} if promised.power is None else {"power": promised.power}),
    }
    written = dataclasses.replace(
        source,
        promise=promised.promise,
        risk=promised.risk or source.risk,
        provenance={**source.provenance, "calibrated": calibrated},
    ).write(out or bundle)
    console.print(f"{out or bundle} ({written.digest[:19]}) promises, on {rows_used:,} responses it was not fitted on:")
    _say(console, promised, wanted)


def _require_here(on: str) -> None:
    if on != HERE:
        raise CalibrationError(
            "--groups, --weights, --target, --classes, --sessions, --correct and --compare need all scores in one "
            "memory: leave --on out"
        )


def _aside(unseen: Recording, sessions: str | None, seed: int) -> tuple[Recording, Recording]:
    """A third of the responses, or of the sessions, and the others."""
    names = [""] * unseen.rows if sessions is None else [str(name) for name in unseen.column(sessions)]
    first = uniforms([f"aside/{name or row}" for row, name in enumerate(names)], seed) <= FRESH
    return unseen.take(np.flatnonzero(first)), unseen.take(np.flatnonzero(~first))


def _together(promise: Promise) -> str:
    if promise.groups and promise.others is None:
        return ", and too few all together: nothing is promised for them, and no evidence gathered"
    carried = promise.remaining.n
    return f", so they have one together, with all groups that may come ({carried:,} responses)"


def _say(console: Console, promised: Promised, wanted: Wanted) -> None:
    """Print what is promised, and of whom."""
    promise, risk = promised.promise, promised.risk
    for line in str(promise).splitlines():
        console.print(f"  {line}")
    if promise.groups and promise.sessions is None:
        console.print(f"  each on its own for: {', '.join(promise.groups)}")
    if promise.pooled:
        console.print(
            f"  too few responses for a promise of their own{_together(promise)}: {', '.join(promise.pooled)}"
        )
    if promise.combination is not None:
        weights = ", ".join(f"{name} {w:.2f}" for name, w in zip(promise.detectors, promise.combination, strict=True))
        console.print(f"  evidence is weighted: {weights}")
    if risk is not None:
        console.print(
            f"  answers are right with probabilities learnt from {promise.detectors[risk.column]} on {risk.labelled:,} "
            f"labelled responses ({wanted.correct_by}); say what they are worth under `risk` in the config"
        )
        if risk.selective is not None:
            by = f"{wanted.max_error:g} ({wanted.max_error_by})"
            console.print(f"  risk of wrong answers bounded at {by}: {risk.selective}")
