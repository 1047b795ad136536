"""tocsin replay"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from tocsin.cli.recorded import LeaveOutBroken, ModelName
from tocsin.cli.scored_recording import ScoredRecording, require_finite
from tocsin.cli.tables import print_table
from tocsin.errors import RecordingError
from tocsin.offline.scoring import responses_of
from tocsin.recording.parquet_files import SIGNAL_PREFIX
from tocsin.recording.reading import GROUP, SESSION
from tocsin.replay.page import report, summary_lines
from tocsin.replay.replay import replay as replayed
from tocsin_calibration import Bundle, CalibrationError, Promise


def replay(
    data: Annotated[Path, typer.Argument(help="A recording: a Parquet file, or a folder of them.")],
    bundle: Annotated[Path, typer.Argument(help="The bundle that would have judged it.")],
    groups: Annotated[str, typer.Option(help="The column of groups, where the promise has them.")] = GROUP,
    sessions: Annotated[str, typer.Option(help="The column of sessions, where the promise is for them.")] = SESSION,
    model: ModelName = None,
    delta: Annotated[float, typer.Option(help="Evidence pages at 1/delta, as with `tocsin rules`.")] = 0.01,
    restart: Annotated[int, typer.Option(help="The model's `restart`.", min=1)] = 1_000,
    leave_out_broken: LeaveOutBroken = False,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures to this file.")] = None,
) -> None:
    """Replay recorded traffic: which responses would have alarmed, and when an alert would have fired."""
    console = Console(highlight=False, soft_wrap=True)
    source = Bundle.read(bundle)
    promise = source.require_promise(bundle)
    if not 0 < delta < 1:
        raise CalibrationError(f"--delta: a probability lies between 0 and 1, not {delta:g}")
    also = [] if promise.classes is None else [promise.classes.signal]
    responses = responses_of(source, data, model, also)
    recording = require_finite(responses, leave_out_broken, console, source.scorer.masked)
    if not recording.rows:
        raise RecordingError(f"{data}: holds no responses")
    shown = ScoredRecording(source, recording)
    if not np.isfinite(shown.scores).all():
        raise RecordingError(f"{data}: holds responses with NaN or infinity, which pass unscored: --leave-out-broken")
    there = [name for name in ("time", "version", "session", "group") if name in recording.columns()]
    columns = {name: shown.names(name) for name in there}

    def named(row: int) -> str:
        values = [columns[name][row] for name in there if columns[name][row]]
        return " ".join([f"{row:,}", *values])

    row_groups = None
    if promise.groups and promise.sessions is None:
        row_groups = shown.names(groups) if promise.classes is None else shown.classes(promise.classes)
    result = replayed(
        promise,
        shown.scores,
        groups=row_groups,
        sessions=shown.names(sessions) if promise.sessions is not None else None,
        versions=columns.get("version"),
        inputs=_inputs(shown, promise) if recording.prefix == SIGNAL_PREFIX else None,
        delta=delta,
        restart=restart,
    )
    for line in summary_lines(result, promise, named):
        console.print(line)
    if result.loudest:
        rows = [
            (named(alarm.row), alarm.severity, f"{alarm.p:.4g}", *(f"{p:.4g}" for p in alarm.detectors.values()))
            for alarm in result.loudest[:10]
        ]
        console.print("\nthe most unusual:")
        print_table(console, ("response", "", "p", *promise.detectors), rows)
    if as_json is not None:
        as_json.write_text(json.dumps({"bundle": source.digest, **result.facts()}, indent=1) + "\n")
        console.print(f"wrote {as_json}")
    if html is not None:
        about = [("bundle", f"{bundle} {source.digest}"), ("traffic", f"{data}: {recording.rows:,} responses")]
        about += [(f"file {file.path.name}", f"sha256:{file.sha256}") for file in recording.files]
        html.write_text(report(result, promise, f"{data.name} replayed with {bundle.name}", about, named))
        console.print(f"wrote {html}")


def _inputs(shown: ScoredRecording, promise: Promise) -> NDArray[np.float32] | None:
    """The signals by which changes of inputs are watched, side by side; None where they are not."""
    return None if promise.inputs is None else np.hstack([shown.signal(name) for name in promise.inputs.signals])
