"""tocsin score"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tocsin.cli.engine_option import On, counted
from tocsin.cli.recorded import LeaveOutBroken, ModelName
from tocsin.cli.scored_recording import require_finite
from tocsin.errors import ConfigError
from tocsin.offline.engine import HERE, engine_of
from tocsin.offline.scoring import ScoreReader, responses_of, write_scores
from tocsin.recording.division import unfitted_rows
from tocsin.recording.reading import Recording
from tocsin_calibration import Bundle


def score(
    bundle: Annotated[Path, typer.Argument(help="A fitted bundle.")],
    data: Annotated[Path, typer.Argument(help="A recording. Rows the bundle was fitted on are left out.")],
    out: Annotated[Path, typer.Argument(help="The folder for the scores: a file for each of the recording.")],
    model: ModelName = None,
    leave_out_broken: LeaveOutBroken = False,
    on: On = HERE,
) -> None:
    """Score a recording once, so that calibrate and evaluate read the scores. Continues where it was interrupted."""
    source, console = Bundle.read(bundle), Console(stderr=True, highlight=False, soft_wrap=True)
    recording = responses_of(source, data, model)
    if out.resolve() in (data.resolve(), data.resolve().parent):
        raise ConfigError(f"{out}: holds the recording itself; name another folder for its scores")
    fitted = source.provenance.get("fitted", {})
    unseen = require_finite(
        recording.where(lambda file: unfitted_rows(file, fitted)), leave_out_broken, console, source.scorer.masked
    )
    out.mkdir(parents=True, exist_ok=True)
    parts = [part for part in unseen.parts() if part.rows]
    done = 0
    with counted(console, "scoring", unseen.rows) as progress:
        for part, written in zip(
            parts, engine_of(on).map(_written, (ScoreReader.of(source), out.absolute()), parts), strict=True
        ):
            progress(part.rows)
            done += written
    console.print(
        f"{out} holds the scores of {unseen.rows:,} responses in {len(parts):,} files ({done:,} written now); next: "
        f"tocsin calibrate {bundle} {out}"
    )


def _written(shared: tuple[ScoreReader, Path], part: Recording) -> bool:
    scoring, directory = shared
    return write_scores(scoring, part, directory) is not None
