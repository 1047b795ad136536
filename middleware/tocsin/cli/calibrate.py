"""tocsin calibrate"""

from __future__ import annotations

import dataclasses
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from tocsin.cli.chosen import Choice, chosen
from tocsin.cli.comparison import show_comparison
from tocsin.cli.promising import Promised, Wanted, promise_of
from tocsin.cli.scored import GROUP, SESSION, ScoredRecording, responses_of, whole
from tocsin.recording.division import Division, calibration_rows, unseen_rows
from tocsin.recording.reading import RecordedFile, Recording
from tocsin_calibration import Bundle, CalibrationError, SessionRule, Window, uniforms
from tocsin_calibration import compare as compare_promises

PROMISE, SESSIONS, WORTH, DATA = "The promise", "Sessions", "What is caught, what answers are worth", "Which responses"
FRESH = 1 / 3  # of the responses that neither calibration has seen, kept to compare both on


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `tocsin fit` wrote.")],
    data: Annotated[
        Path, typer.Argument(help="Safe responses: a Parquet file or a folder. Rows it was fitted on are left out.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle to write; else the same file.")] = None,
    warning: Annotated[float, typer.Option(help="The false-alarm rate of warnings.", rich_help_panel=PROMISE)] = 0.05,
    critical: Annotated[
        float, typer.Option(help="The false-alarm rate of critical alarms.", rich_help_panel=PROMISE)
    ] = 0.01,
    rule: Annotated[
        str,
        typer.Option(
            help="any: alarm when some detector stands out; all: when every one does; '2 of 3': when two of three do; "
            "learnt: when their weighted sum does.",
            rich_help_panel=PROMISE,
        ),
    ] = "any",
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Promise the rates for this very calibration, with this confidence, not on average.",
            rich_help_panel=PROMISE,
        ),
    ] = None,
    contaminated: Annotated[
        float,
        typer.Option(help="Keep the rates although up to this share of the data is not safe.", rich_help_panel=PROMISE),
    ] = 0.0,
    groups: Annotated[
        str | None,
        typer.Option(
            help=f"A promise for each value of this column, such as {GROUP} or version.", rich_help_panel=PROMISE
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A column of likelihood ratios: how much more often such a response is expected.",
            rich_help_panel=PROMISE,
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            help="A recording of the traffic expected; likelihood ratios are learnt from it.", rich_help_panel=PROMISE
        ),
    ] = None,
    sessions: Annotated[
        str | None,
        typer.Option(
            help=f"Promise for whole sessions, told apart by this column, such as {SESSION}.", rich_help_panel=SESSIONS
        ),
    ] = None,
    window: Annotated[
        int, typer.Option(min=1, help="With --sessions: how many of the last scores count.", rich_help_panel=SESSIONS)
    ] = 1,
    how: Annotated[str, typer.Option(help="With --sessions: their sum or mean.", rich_help_panel=SESSIONS)] = "mean",
    style: Annotated[
        str,
        typer.Option(
            help="With --sessions: max, band (follows the usual course) or step (a promise a step).",
            rich_help_panel=SESSIONS,
        ),
    ] = "max",
    every: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --sessions: promise for stretches of so many responses.", rich_help_panel=SESSIONS
        ),
    ] = None,
    failures: Annotated[
        Path | None,
        typer.Option(
            help="A recording of what should alarm: measures what is caught; half of it teaches the rule learnt.",
            rich_help_panel=WORTH,
        ),
    ] = None,
    correct: Annotated[
        str | None,
        typer.Option(
            help="A column that says whether each answer was right: learns the probability that answers are.",
            rich_help_panel=WORTH,
        ),
    ] = None,
    correct_by: Annotated[
        str, typer.Option(help="How: venn_abers, isotonic, platt or temperature.", rich_help_panel=WORTH)
    ] = "venn_abers",
    max_error: Annotated[
        float | None,
        typer.Option(
            help="With --correct: bound the risk of serving wrong answers; the rest abstains.", rich_help_panel=WORTH
        ),
    ] = None,
    max_error_by: Annotated[
        str,
        typer.Option(
            help="crc: wrong and served, of all, on average; ltt or sgr: wrong among served, with confidence 0.9.",
            rich_help_panel=WORTH,
        ),
    ] = "crc",
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave an incident out: START/END in ISO 8601, UTC; may be repeated.", rich_help_panel=DATA),
    ] = None,
    newest: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the newest responses.", rich_help_panel=DATA)
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only so many responses, drawn by lot.", rich_help_panel=DATA)
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with the bundle's calibration; write only with --out.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The model, where the recording holds several.", rich_help_panel=DATA)
    ] = None,
    leave_out_broken: Annotated[
        bool,
        typer.Option("--leave-out-broken", help="Leave responses out that hold NaN or infinity.", rich_help_panel=DATA),
    ] = False,
    share: Annotated[
        float,
        typer.Option(
            min=0.01, max=1.0, help="The share of rows to calibrate on; evaluate gets the others.", rich_help_panel=DATA
        ),
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(help="Decides the rows, and which of them set the detectors' scales.", rich_help_panel=DATA)
    ] = 0,
) -> None:
    """Learn from safe responses which scores to alarm at, and promise the false-alarm rate."""
    made = Bundle.read(bundle)
    if critical > warning:
        raise CalibrationError(
            f"critical alarms are the rarer ones: --critical {critical:g} exceeds --warning {warning:g}"
        )
    console = Console(highlight=False, soft_wrap=True)
    recording = responses_of(made, data, model)
    fitted, division = made.made.get("fitted", {}), Division(share, seed, sessions)

    def rows(file: RecordedFile) -> Any:
        own = calibration_rows(file, fitted, division)
        return own & unseen_rows(file, made.made) if compare else own

    unseen = whole(recording.where(rows), leave_out_broken, console)
    unseen = chosen(unseen, Choice(exclude or [], newest, sample, seed, sessions), console, data)
    if not unseen.rows:
        by = "fitting, or for the calibration to compare with" if compare else "fitting"
        raise CalibrationError(f"{data}: every row was used for {by}; record more, or fit again with a smaller --share")
    fresh = None
    if compare:
        fresh, unseen = _aside(unseen, sessions, seed)
    known = ScoredRecording(made, unseen)
    wanted = Wanted(
        alphas={"warning": warning, "critical": critical},
        rule=rule,
        confidence=confidence,
        contaminated=contaminated,
        groups=groups,
        weights=weights,
        target=target,
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
    promised = promise_of(made, known, wanted)
    if fresh is not None:
        current, new = made.require_promise(bundle), ScoredRecording(made, fresh)
        names = None if sessions is None else (new.names(sessions), known.names(sessions))
        show_comparison(
            console, compare_promises(current, promised.promise, new.scores, known.scores, names, seed=seed)
        )
        if out is None:
            console.print("nothing was written; name a bundle with --out to take the candidate")
            return
    calibrated = {
        "timestamp": time.time(),
        "tocsin": version("tocsin"),
        "rows": unseen.rows,
        **division.facts(),
        "files": {file.sha256: file.path.name for file in recording.files},
        **({} if promised.power is None else {"power": promised.power}),
    }
    written = dataclasses.replace(
        made,
        promise=promised.promise,
        risk=promised.risk or made.risk,
        made={**made.made, "calibrated": calibrated},
    ).write(out or bundle)
    console.print(
        f"{out or bundle} ({written.digest[:19]}) promises, on {unseen.rows:,} responses it was not fitted on:"
    )
    _say(console, promised, wanted)


def _aside(unseen: Recording, sessions: str | None, seed: int) -> tuple[Recording, Recording]:
    """A third of the responses, or of the sessions, and the others."""
    names = [""] * unseen.rows if sessions is None else [str(name) for name in unseen.column(sessions)]
    first = uniforms([f"aside/{name or row}" for row, name in enumerate(names)], seed) <= FRESH
    return unseen.take(np.flatnonzero(first)), unseen.take(np.flatnonzero(~first))


def _say(console: Console, promised: Promised, wanted: Wanted) -> None:
    """Print what is promised, and of whom."""
    promise, risk = promised.promise, promised.risk
    for line in str(promise).splitlines():
        console.print(f"  {line}")
    if promise.groups and promise.sessions is None:
        console.print(f"  each on its own for: {', '.join(promise.groups)}")
    if promise.pooled:
        console.print(
            f"  too few responses for a promise of their own, so they share the one above: {', '.join(promise.pooled)}"
        )
    if promise.combination is not None:
        told = ", ".join(f"{name} {w:.2f}" for name, w in zip(promise.detectors, promise.combination, strict=True))
        console.print(f"  evidence is weighted: {told}")
    if risk is not None:
        console.print(
            f"  answers are right with probabilities learnt from {promise.detectors[risk.column]} on {risk.labelled:,} "
            f"labelled responses ({wanted.correct_by}); say what they are worth under `risk` in the config"
        )
        if risk.selective is not None:
            by = f"{wanted.max_error:g} ({wanted.max_error_by})"
            console.print(f"  risk of wrong answers bounded at {by}: {risk.selective}")
