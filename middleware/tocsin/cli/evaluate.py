"""tocsin evaluate"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from tocsin.cli.engine_option import On, in_parts
from tocsin.cli.evaluation_tables import show_evaluation
from tocsin.cli.recorded import LeaveOutBroken, ModelName
from tocsin.cli.row_choice import of_sessions
from tocsin.cli.scored_recording import ScoredRecording, failures_in, require_finite
from tocsin.errors import ConfigError
from tocsin.offline.engine import HERE, engine_of
from tocsin.offline.evaluating import evaluate_files
from tocsin.offline.scoring import ScoreReader, responses_of
from tocsin.recording.division import require_whole_sessions, unseen_rows
from tocsin.recording.parquet_files import Mask
from tocsin.recording.reading import SESSION, RecordedFile, Recording
from tocsin_calibration import Bundle, CalibrationError, Costs, Evaluation, Promise, distributional_correctness
from tocsin_calibration import evaluate as make_evaluation
from tocsin_calibration.evaluation.report import report

CLASS, SLAB = "class", "slab"  # of --by: what no column need hold
MOST_INPUTS = 4_096  # numbers a response that a slab is searched in


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A calibrated bundle.")],
    data: Annotated[
        Path, typer.Argument(help="Safe responses: a recording. Rows it was fitted or calibrated on are left out.")
    ],
    groups: Annotated[str | None, typer.Option(help="The column that names each response's group.")] = None,
    sessions: Annotated[
        str, typer.Option(help="The column that names each response's session, where the promise is for sessions.")
    ] = SESSION,
    only: Annotated[
        Path | None, typer.Option(help="Of the safe responses, only sessions that this file names, one a line.")
    ] = None,
    correct: Annotated[str | None, typer.Option(help="The column that says whether each answer was right.")] = None,
    label: Annotated[
        str | None, typer.Option(help="The column that holds the right choice, from 0; instead of --correct.")
    ] = None,
    answers: Annotated[
        str, typer.Option(help="With --label and --by class: the signal that holds the choices' probabilities.")
    ] = "probs",
    idk: Annotated[int | None, typer.Option(help="With --label: the choice that abstains, if there is one.")] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Tell how often parts alarm: by a column of names or numbers, time, class (the likeliest "
            "of --answers) or slab (the worst stretch of the signals); may be repeated."
        ),
    ] = None,
    failures: Annotated[Path | None, typer.Option(help="A recording of what should alarm.")] = None,
    right_earns: Annotated[float, typer.Option(help="What a right answer is worth.")] = 1.0,
    wrong_costs: Annotated[float, typer.Option(help="What a wrong answer costs.")] = 1.0,
    review_costs: Annotated[float | None, typer.Option(help="What a person's look at an answer costs.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures to this file.")] = None,
    model: ModelName = None,
    leave_out_broken: LeaveOutBroken = False,
    on: On = HERE,
) -> None:
    """Measure whether a bundle keeps its promises on data it has never seen, and how well it detects failures."""
    source = Bundle.read(bundle)
    promise = source.require_promise(bundle)
    console = Console(highlight=False, soft_wrap=True)
    columns = _Columns(groups, sessions, correct, label, answers, idk, tuple(by or ()))
    if correct is not None and label is not None:
        raise ConfigError("--correct and --label both say which answers were right: name one")
    if promise.classes is not None and groups is not None:
        raise ConfigError(f"--groups: the bundle's groups are the classes that signal '{promise.classes.signal}' names")
    unseen = _unseen_responses(source, promise, data, model, columns, only, console)
    unseen = require_finite(unseen, leave_out_broken, console, source.scorer.masked)
    if not unseen.rows:
        raise CalibrationError(
            f"{data}: every row was used for fitting or calibrating; record more, or calibrate with a smaller --share"
        )
    if in_parts(on, unseen.rows) and not (columns.needs_all_scores(promise) or failures):
        evaluation = evaluate_files(promise, ScoreReader.of(source), unseen, engine_of(on))
        console.print(
            "file by file: evidence of drift and calibrating anew on halves need all scores in memory, and are left out"
        )
    elif on != HERE:
        raise CalibrationError(
            "--groups, --by, --sessions, --correct, --label and --failures need all scores in one memory: leave "
            "--on out"
        )
    else:
        shown = ScoredRecording(source, unseen)
        bad = None if failures is None else failures_in(source, failures, model, columns.class_signals(promise))
        evaluation = _evaluate_in_memory(
            source, promise, shown, bad, columns, Costs(right_earns, wrong_costs, review_costs)
        )
    _print_and_write(console, evaluation, bundle, data, source, unseen, failures, as_json, html)


class _Columns(NamedTuple):
    """Which columns and signals of a recording say what."""

    groups: str | None
    sessions: str
    correct: str | None
    label: str | None
    answers: str
    idk: int | None
    by: tuple[str, ...]

    def class_signals(self, promise: Promise) -> list[str]:
        """The signal that names a response's class, where the promise has classes."""
        return [] if promise.classes is None else [promise.classes.signal]

    def signals(self, promise: Promise) -> list[str]:
        """The signals that are read besides those of the detectors."""
        answers = [] if self.label is None and CLASS not in self.by else [self.answers]
        return [*answers, *self.class_signals(promise)]

    def needs_all_scores(self, promise: Promise) -> bool:
        """Whether what is asked for cannot be counted file by file."""
        is_divided = promise.sessions is not None or promise.classes is not None
        return is_divided or bool(self.groups or self.correct or self.label or self.by)


def _unseen_responses(
    source: Bundle,
    promise: Promise,
    data: Path,
    model: str | None,
    columns: _Columns,
    only: Path | None,
    console: Console,
) -> Recording:
    """The responses of a recording that the bundle was neither fitted nor calibrated on."""

    def rows(file: RecordedFile) -> Mask:
        if promise.sessions is not None:
            for record in (source.provenance.get("fitted", {}), source.provenance.get("calibrated", {})):
                require_whole_sessions(file, record, columns.sessions)
        return unseen_rows(file, source.provenance)

    recording = responses_of(source, data, model, columns.signals(promise))
    return of_sessions(recording.where(rows), only, columns.sessions, console)


def _evaluate_in_memory(
    source: Bundle,
    promise: Promise,
    shown: ScoredRecording,
    bad: ScoredRecording | None,
    columns: _Columns,
    costs: Costs,
) -> Evaluation:
    """Evaluate on safe responses and, where there are some, on `bad` ones."""
    by_session, classes = promise.sessions is not None, promise.classes
    right = None if columns.correct is None else shown.labels(columns.correct)
    dcs = None
    if columns.label is not None:
        probs, truth = shown.signal(columns.answers), shown.numbers(columns.label).astype(np.intp)
        dcs = distributional_correctness(probs, truth, columns.idk, costs.loads)
        right = probs.argmax(axis=1) == truth
    row_groups = None if columns.groups is None else shown.names(columns.groups)
    return make_evaluation(
        promise,
        shown.scores,
        groups=row_groups if classes is None else shown.classes(classes),
        sessions=shown.names(columns.sessions) if by_session else None,
        correct=right,
        dcs=dcs,
        failures=None if bad is None else bad.scores,
        failed_sessions=bad.names(columns.sessions) if by_session and bad is not None else None,
        failed_groups=None if bad is None or classes is None else bad.classes(classes),
        risk=source.risk,
        costs=costs,
        columns={name: _column(shown, name, columns.answers) for name in columns.by if name != SLAB},
        inputs=_inputs(shown, source) if SLAB in columns.by else None,
    )


def _column(shown: ScoredRecording, name: str, answers: str) -> list[object]:
    """What tells parts of the traffic apart: a column, the likeliest choice, or the time as Unix seconds."""
    if name == CLASS and CLASS not in shown.columns:
        return [int(choice) for choice in shown.signal(answers).argmax(axis=1)]
    values = shown.values(name)
    return [value.timestamp() if isinstance(value, datetime) else value for value in values]


def _inputs(shown: ScoredRecording, source: Bundle) -> NDArray[np.float32] | None:
    width = sum(source.scorer.signals.values())
    if not 0 < width <= MOST_INPUTS:
        raise CalibrationError(
            f"a slab is searched in up to {MOST_INPUTS} numbers a response, not in {width or 'signals of free length'}"
        )
    return shown.signals()


def _print_and_write(
    console: Console,
    evaluation: Evaluation,
    bundle: Path,
    data: Path,
    source: Bundle,
    unseen: Recording,
    failures: Path | None,
    as_json: Path | None,
    html: Path | None,
) -> None:
    """Print an evaluation, and write it to the files that the options name."""
    show_evaluation(console, evaluation)
    if as_json is not None:
        as_json.write_text(
            json.dumps({"bundle": source.digest, "rows": unseen.rows, **evaluation.facts()}, indent=1) + "\n"
        )
        console.print(f"wrote {as_json}")
    if html is not None:
        about = [
            ("bundle", f"{bundle} {source.digest}"),
            ("safe responses", f"{data}: {unseen.rows:,} that it was neither fitted nor calibrated on"),
            *([("failures", str(failures))] if failures is not None else []),
            *((f"files, {file.path.name}", f"sha256:{file.sha256}") for file in unseen.files),
        ]
        html.write_text(
            report(evaluation, title=f"{bundle.name} on {data.name}", promise=str(source.promise), about=about)
        )
        console.print(f"wrote {html}")
