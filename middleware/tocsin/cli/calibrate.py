"""tocsin calibrate"""

from __future__ import annotations

import dataclasses
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from tocsin.cli.fit import without_broken
from tocsin.recording.division import calibration_rows
from tocsin.recording.reading import read_recording
from tocsin_calibration import Bundle, CalibrationError
from tocsin_calibration import calibrate as make_promise


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `tocsin fit` wrote.")],
    data: Annotated[
        Path,
        typer.Argument(help="Safe responses: a Parquet file or a folder. Rows it was fitted on are left out."),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle to write; else the same file.")] = None,
    warning: Annotated[float, typer.Option(help="The false-alarm rate of warnings.")] = 0.05,
    critical: Annotated[float, typer.Option(help="The false-alarm rate of critical alarms.")] = 0.01,
    rule: Annotated[
        str, typer.Option(help="any: alarm when some detector stands out; all: when every one does.")
    ] = "any",
    model: Annotated[str | None, typer.Option(help="The model, where the recording holds several.")] = None,
    leave_out_broken: Annotated[
        bool, typer.Option("--leave-out-broken", help="Leave responses out that hold NaN or infinity.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides which responses set the detectors' scales.")] = 0,
) -> None:
    """Learn from safe responses which scores to alarm at, and promise the false-alarm rate."""
    made = Bundle.read(bundle)
    if critical > warning:
        raise CalibrationError(
            f"critical alarms are the rarer ones: --critical {critical:g} exceeds --warning {warning:g}"
        )
    fitted = made.made.get("fitted", {})
    console = Console(highlight=False, soft_wrap=True)
    recording = read_recording(data, model or made.model or None, made.scorer.signals, free=made.scorer.free_lengths)
    unseen = recording.where(lambda file: calibration_rows(file, fitted))
    if leave_out_broken:
        unseen = without_broken(unseen, console)
    if not unseen.rows:
        raise CalibrationError(
            f"{data}: every row was used for fitting; record more, or fit again with a smaller --share"
        )
    promise = make_promise(
        np.concatenate([made.scorer(batch) for batch in unseen.batches()]),
        {"warning": warning, "critical": critical},
        rule=rule,
        detectors=made.scorer.detectors,
        seed=seed,
    )
    calibrated = {
        "timestamp": time.time(),
        "tocsin": version("tocsin"),
        "rows": unseen.rows,
        "seed": seed,
        "files": {file.sha256: file.path.name for file in recording.files},
    }
    target = out or bundle
    written = dataclasses.replace(made, promise=promise, made={**made.made, "calibrated": calibrated}).write(target)
    console.print(f"{target} ({written.digest[:19]}) promises, on {unseen.rows:,} responses it was not fitted on:")
    for line in str(promise).splitlines():
        console.print(f"  {line}")
