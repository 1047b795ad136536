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
from tocsin.cli.scored import GROUP, SESSION, ScoredRecording, Scores, failures_in, responses_of, whole
from tocsin.recording.division import Division, calibration_rows, unseen_rows
from tocsin.recording.reading import RecordedFile, Recording
from tocsin_calibration import (
    Bundle,
    CalibrationError,
    Promise,
    SessionRule,
    Window,
    calibrate_sessions,
    covariate_weights,
    fit_risk_policy,
    uniforms,
)
from tocsin_calibration import calibrate as make_promise
from tocsin_calibration import compare as compare_promises
from tocsin_calibration.sessions.grouping import rows_by_session

FRESH = 1 / 3  # of the responses that neither calibration has seen, kept to compare both on
MOST_COVARIATES = 512


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `tocsin fit` wrote.")],
    data: Annotated[
        Path, typer.Argument(help="Safe responses: a Parquet file or a folder. Rows it was fitted on are left out.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle to write; else the same file.")] = None,
    warning: Annotated[float, typer.Option(help="The false-alarm rate of warnings.")] = 0.05,
    critical: Annotated[float, typer.Option(help="The false-alarm rate of critical alarms.")] = 0.01,
    rule: Annotated[
        str,
        typer.Option(
            help="any: alarm when some detector stands out; all: when every one does; '2 of 3': when two of three do; "
            "learnt: when their weighted sum does."
        ),
    ] = "any",
    confidence: Annotated[
        float | None,
        typer.Option(help="Promise the rates for this very calibration, with this confidence, not on average."),
    ] = None,
    contaminated: Annotated[
        float, typer.Option(help="Keep the rates although up to this share of the data is not safe.")
    ] = 0.0,
    groups: Annotated[
        str | None, typer.Option(help=f"A promise for each value of this column, such as {GROUP} or version.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="A column of likelihood ratios: how much more often such a response is expected.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="A recording of the traffic expected; likelihood ratios are learnt from it.")
    ] = None,
    sessions: Annotated[
        str | None,
        typer.Option(help=f"Promise for whole sessions, told apart by this column, such as {SESSION}."),
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="With --sessions: how many of the last scores count.")] = 1,
    how: Annotated[str, typer.Option(help="With --sessions: their sum or mean.")] = "mean",
    style: Annotated[
        str, typer.Option(help="With --sessions: max, band (follows the usual course) or step (a promise a step).")
    ] = "max",
    every: Annotated[
        int | None, typer.Option(min=1, help="With --sessions: promise for stretches of so many responses.")
    ] = None,
    failures: Annotated[
        Path | None,
        typer.Option(help="A recording of what should alarm: measures what is caught, and teaches the rule learnt."),
    ] = None,
    correct: Annotated[
        str | None,
        typer.Option(help="A column that says whether each answer was right: learns the probability that answers are."),
    ] = None,
    correct_by: Annotated[str, typer.Option(help="How: venn_abers, isotonic, platt or temperature.")] = "venn_abers",
    max_error: Annotated[
        float | None, typer.Option(help="With --correct: bound the risk of serving wrong answers; the rest abstains.")
    ] = None,
    max_error_by: Annotated[
        str,
        typer.Option(
            help="crc: wrong and served, of all responses, on average; ltt or sgr: wrong among served, with confidence."
        ),
    ] = "crc",
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave an incident out: START/END in ISO 8601, UTC; may be repeated.")
    ] = None,
    newest: Annotated[int | None, typer.Option(min=1, help="Only so many of the newest responses.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many responses, drawn by lot.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with the bundle's calibration; write only with --out.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="The model, where the recording holds several.")] = None,
    leave_out_broken: Annotated[
        bool, typer.Option("--leave-out-broken", help="Leave responses out that hold NaN or infinity.")
    ] = False,
    share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The share of rows to calibrate on; evaluate gets the others.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Decides the rows, and which of them set the detectors' scales.")] = 0,
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
    bad = None if failures is None else failures_in(made, failures, model).scores
    common: dict[str, Any] = {
        "alpha": {"warning": warning, "critical": critical},
        "rule": rule,
        "detectors": made.scorer.detectors,
        "seed": seed,
        "confidence": confidence,
        "failures": bad,
    }
    if sessions is not None:
        if groups is not None or weights is not None or target is not None or contaminated:
            raise CalibrationError("--sessions goes with neither --groups, --weights, --target nor --contaminated")
        session_rule = SessionRule(Window(window, how), style, every)  # type: ignore[arg-type]
        rows_of = rows_by_session(known.names(sessions))
        promise = calibrate_sessions([known.scores[own] for own in rows_of], session=session_rule, **common)
    else:
        promise = make_promise(
            known.scores,
            contaminated=contaminated,
            groups=None if groups is None else known.names(groups),
            weights=_weights(made, known, weights, target, model),
            **common,
        )
    risk = made.risk
    if correct is not None:
        idk = made.scorer.detectors.index("abstain_mass") if "abstain_mass" in made.scorer.detectors else None
        risk = fit_risk_policy(
            known.scores,
            known.labels(correct),
            way=correct_by,
            idk=idk,
            seed=seed,
            max_error=max_error,
            method=max_error_by,
        )
        if risk.selective is not None and risk.selective.threshold is None:
            raise CalibrationError(f"--max-error {max_error:g}: {risk.selective}")
    elif max_error is not None:
        raise CalibrationError("--max-error needs to know which answers were right: name a column with --correct")
    if fresh is not None:
        current = made.require_promise(bundle)
        new = ScoredRecording(made, fresh)
        names = None if sessions is None else (new.names(sessions), known.names(sessions))
        show_comparison(console, compare_promises(current, promise, new.scores, known.scores, names, seed=seed))
        if out is None:
            console.print("nothing was written; name a bundle with --out to take the candidate")
            return
    calibrated = {
        "timestamp": time.time(),
        "tocsin": version("tocsin"),
        "rows": unseen.rows,
        **division.facts(),
        "files": {file.sha256: file.path.name for file in recording.files},
        **({} if bad is None or sessions is not None else {"power": _power(promise, bad)}),
    }
    written = dataclasses.replace(made, promise=promise, risk=risk, made={**made.made, "calibrated": calibrated}).write(
        out or bundle
    )
    said = f"{out or bundle} ({written.digest[:19]}) promises, on {unseen.rows:,} responses it was not fitted on:"
    console.print(said)
    for line in str(promise).splitlines():
        console.print(f"  {line}")
    _say_more(console, promise)
    if risk is not None and correct is not None:
        console.print(
            f"  answers are right with probabilities learnt from {made.scorer.detectors[risk.column]} on "
            f"{risk.labelled:,} labelled responses ({correct_by}); say what they are worth under `risk` in the config"
        )
        if risk.selective is not None:
            console.print(f"  risk of wrong answers bounded at {max_error:g} ({max_error_by}): {risk.selective}")


def _aside(unseen: Recording, sessions: str | None, seed: int) -> tuple[Recording, Recording]:
    """A third of the responses, or of the sessions, and the others."""
    names = [""] * unseen.rows if sessions is None else [str(name) for name in unseen.column(sessions)]
    first = uniforms([f"aside/{name or row}" for row, name in enumerate(names)], seed) <= FRESH
    return unseen.take(np.flatnonzero(first)), unseen.take(np.flatnonzero(~first))


def _weights(made: Bundle, known: ScoredRecording, column: str | None, target: Path | None, model: str | None) -> Any:
    if column is not None and target is not None:
        raise CalibrationError(
            "likelihood ratios come from a column (--weights) or from a recording (--target), not both"
        )
    if column is not None:
        return known.numbers(column)
    if target is None:
        return None
    width = sum(made.scorer.signals.values())
    if not 0 < width <= MOST_COVARIATES:
        raise CalibrationError(
            f"likelihood ratios cannot be learnt from {width or 'signals of free length, or no'} numbers a response; "
            f"give them as a column (--weights)"
        )
    return covariate_weights(known.signals(), ScoredRecording(made, responses_of(made, target, model)).signals())


def _power(promise: Promise, bad: Scores) -> dict[str, list[int]]:
    """Of how many failures how many are caught, by severity; for `tocsin bundle show --failure-rate`."""
    severities = promise.judge(bad).severities
    return {
        name: [sum(s is not None and promise.alphas[s] <= alpha for s in severities), len(severities)]
        for name, alpha in promise.alphas.items()
    }


def _say_more(console: Console, promise: Promise) -> None:
    if promise.groups and promise.sessions is None:
        console.print(f"  each on its own for: {', '.join(promise.groups)}")
    if promise.pooled:
        console.print(
            f"  too few responses for a promise of their own, so they share the one above: {', '.join(promise.pooled)}"
        )
    if promise.combination is not None:
        told = ", ".join(f"{name} {w:.2f}" for name, w in zip(promise.detectors, promise.combination, strict=True))
        console.print(f"  evidence is weighted: {told}")
