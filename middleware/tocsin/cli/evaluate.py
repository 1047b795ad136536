"""tocsin evaluate"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from tocsin.cli.engine_option import On, in_parts
from tocsin.cli.recorded import LeaveOutBroken, ModelName
from tocsin.cli.row_choice import of_sessions
from tocsin.cli.scored_recording import ScoredRecording, failures_in, require_finite
from tocsin.cli.tables import print_table
from tocsin.errors import ConfigError
from tocsin.offline.engine import HERE, engine_of
from tocsin.offline.evaluating import evaluate_files
from tocsin.offline.scoring import ScoreReader, responses_of
from tocsin.recording.division import require_whole_sessions, unseen_rows
from tocsin.recording.reading import SESSION, Mask, RecordedFile, Recording
from tocsin_calibration import Bundle, CalibrationError, Costs, Evaluation, distributional_correctness
from tocsin_calibration import evaluate as make_evaluation
from tocsin_calibration.evaluation.evaluate import Labelled, Power
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
    if correct is not None and label is not None:
        raise ConfigError("--correct and --label both say which answers were right: name one")
    classes = promise.classes
    if classes is not None and groups is not None:
        raise ConfigError(f"--groups: the bundle's groups are the classes that signal '{classes.signal}' names")
    naming = [] if classes is None else [classes.signal]
    also = [] if label is None and CLASS not in (by or ()) else [answers]
    recording = responses_of(source, data, model, [*also, *naming])
    by_session, by_class = promise.sessions is not None, classes is not None

    def rows(file: RecordedFile) -> Mask:
        if by_session:
            for record in (source.provenance.get("fitted", {}), source.provenance.get("calibrated", {})):
                require_whole_sessions(file, record, sessions)
        return unseen_rows(file, source.provenance)

    unseen = require_finite(
        of_sessions(recording.where(rows), only, sessions, console), leave_out_broken, console, source.scorer.masked
    )
    if not unseen.rows:
        raise CalibrationError(
            f"{data}: every row was used for fitting or calibrating; record more, or calibrate with a smaller --share"
        )
    if in_parts(on, unseen.rows) and not (by_session or by_class or groups or correct or label or failures or by):
        evaluation = evaluate_files(promise, ScoreReader.of(source), unseen, engine_of(on))
        console.print(
            "file by file: evidence of drift and calibrating anew on halves need all scores in memory, and are left out"
        )
        _print_and_write(console, evaluation, bundle, data, source, unseen, failures, as_json, html)
        return
    if on != HERE:
        raise CalibrationError(
            "--groups, --by, --sessions, --correct, --label and --failures need all scores in one memory: leave "
            "--on out"
        )
    shown = ScoredRecording(source, unseen)
    bad = None if failures is None else failures_in(source, failures, model, naming)
    costs = Costs(right_earns, wrong_costs, review_costs)
    right = None if correct is None else shown.labels(correct)
    dcs = None
    if label is not None:
        probs, truth = shown.signal(answers), shown.numbers(label).astype(np.intp)
        dcs = distributional_correctness(probs, truth, idk, costs.loads)
        right = probs.argmax(axis=1) == truth
    row_groups = None if groups is None else shown.names(groups)
    evaluation = make_evaluation(
        promise,
        shown.scores,
        groups=row_groups if classes is None else shown.classes(classes),
        sessions=shown.names(sessions) if by_session else None,
        correct=right,
        dcs=dcs,
        failures=None if bad is None else bad.scores,
        failed_sessions=bad.names(sessions) if by_session and bad is not None else None,
        failed_groups=None if bad is None or classes is None else bad.classes(classes),
        risk=source.risk,
        costs=costs,
        columns={name: _column(shown, name, answers) for name in by or () if name != SLAB},
        inputs=_inputs(shown, source) if SLAB in (by or ()) else None,
    )
    _print_and_write(console, evaluation, bundle, data, source, unseen, failures, as_json, html)


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
    show(console, evaluation)
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


def show(console: Console, evaluation: Evaluation) -> None:
    """Print an evaluation as tables."""
    columns = (evaluation.unit, "promised", "alarms", "rate", "99% interval", "expected 99 times of 100", "")
    every = [*reversed(evaluation.severities.items()), *((f"group {g}", k) for g, k in evaluation.groups.items())]
    rows = [
        (
            name,
            f"{check.alpha:.3g}",
            f"{check.alarms:,} of {check.n:,}",
            f"{check.rate:.2%}",
            f"{check.low:.2%} to {check.high:.2%}",
            f"{check.least:,} to {check.most:,}",
            check.word,
        )
        for name, check in every
    ]
    print_table(console, columns, rows)
    if evaluation.parts:
        _show_parts(console, evaluation)
    if evaluation.drift is not None:
        console.print(
            f"log evidence of drift since calibration: {evaluation.drift:.2f} (4.6 by chance once in a hundred)"
        )
    if (seeds := evaluation.seeds) is not None:
        console.print(
            f"calibrated anew on random halves, {seeds.splits} times: {seeds.mean:.2%}, standard deviation "
            f"{seeds.deviation:.2%} (the law expects {seeds.expected:.2%})"
        )
    if evaluation.labelled is not None:
        _show_labelled(console, evaluation.labelled)
    if evaluation.power is not None:
        _show_power(console, evaluation.power)


def _show_parts(console: Console, evaluation: Evaluation) -> None:
    name, check = list(evaluation.severities.items())[-1]
    rows = [
        (f"{part.kind} {part.name}", f"{part.alarms:,} of {part.n:,}", f"{part.rate:.2%}",
         f"{part.low:.2%} to {part.high:.2%}", part.word)
        for part in evaluation.parts
    ]  # fmt: skip
    print_table(console, (f"parts, {name}", "alarms", "rate", "99% interval, all at once", ""), rows)
    high = sum(bool(part.word) for part in evaluation.parts)
    console.print(
        f"{high} of {len(rows)} parts alarm at more than {check.alpha:.3g} for sure (a wrong one at most once in a "
        f"hundred evaluations); a promise for all says nothing of parts, calibrate --groups makes one for each"
    )


def _show_labelled(console: Console, labelled: Labelled) -> None:
    console.print(f"\n{labelled.n:,} labelled answers, {labelled.accuracy:.2%} right")
    console.print(f"AURC {labelled.curve.aurc:.4f}, {labelled.curve.excess:.4f} above a perfect order")
    if labelled.separation is not None:
        a, f = labelled.separation
        console.print(
            f"wrong answers: AUROC {a.value:.3f} ({a.low:.3f} to {a.high:.3f}), FPR at 95% TPR {f.value:.3f} "
            f"({f.low:.3f} to {f.high:.3f})"
        )
    if (p := labelled.probabilities) is not None:
        console.print(
            f"probabilities: ECE {p.ece.error:.4f} ({p.ece.low:.4f} to {p.ece.high:.4f}; by chance up to "
            f"{p.ece.by_chance:.4f}), Brier {p.brier:.4f}, NLL {p.nll:.4f}"
        )
        console.print(
            f"expected DCS {p.expected_dcs:+.4f}; worth an answer: {p.worth_always:+.4f} answering everything, "
            f"{p.worth_policy:+.4f} by the policy "
            f"({p.served:.1%} served, {p.flagged:.1%} flagged)"
        )
    if labelled.dcs is not None:
        console.print(f"DCS {labelled.dcs:+.4f} (Distributional Correctness Score of the answers' own distributions)")
    for name, accuracy in labelled.accuracy_by_group.items():
        console.print(
            f"group {name}: {accuracy:.2%} right; its risk moves with the whole, r = "
            f"{labelled.subgroups[name].correlation:.2f}"
        )
    if labelled.spread is not None:
        harmony = "told of three or more" if labelled.harmony is None else f"{labelled.harmony:.3f} (1 = all alike)"
        console.print(f"accuracy of groups: {labelled.spread:.2%} between best and worst; harmony of groups {harmony}")


def _show_power(console: Console, power: Power) -> None:
    console.print()
    for name, (count, low, high) in reversed(power.caught.items()):
        console.print(f"caught, {name}: {count:,} of {power.n:,} ({count / power.n:.1%}; {low:.1%} to {high:.1%})")
    for name, separation in power.separation.items():
        console.print(
            f"AUROC, {name}: {separation.auroc.value:.3f} ({separation.auroc.low:.3f} to "
            f"{separation.auroc.high:.3f}), FPR at 95% TPR "
            f"{separation.fpr95.value:.3f}"
        )
    if (m := power.sessions) is not None:
        console.print(
            f"sessions: TPR {m.tpr:.3f}, TNR {m.tnr:.3f}, detection time {m.detection_time:.3f}, TWA {m.twa:.3f}"
        )
