"""tocsin fit"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tocsin.errors import ConfigError
from tocsin.recording.division import fitting_rows, joined
from tocsin.recording.reading import read_recording
from tocsin_calibration import Bundle
from tocsin_detectors import Scorer
from tocsin_detectors.graph import build_graph
from tocsin_detectors.registry import names, parse


def fit(
    data: Annotated[Path, typer.Argument(help="A recording of safe traffic: a Parquet file or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write.")],
    detector: Annotated[
        list[str],
        typer.Option("--detector", "-d", help=f"NAME or NAME:SIGNAL, may be repeated. Names: {', '.join(names())}."),
    ],
    model: Annotated[str | None, typer.Option(help="The model, where the recording holds several.")] = None,
    share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The share of rows to fit on; calibrate gets the others.")
    ] = 0.4,
    seed: Annotated[int, typer.Option(help="Decides the rows and every random start.")] = 0,
) -> None:
    """Fit detectors on safe responses and write them as a bundle, still to be calibrated."""
    require_fitting()
    detectors = [parse(spec) for spec in detector]
    files = read_recording(data, model, dict.fromkeys(s for d in detectors for s in d.reads))
    safe = joined(file.observations.take(fitting_rows(file, share, seed)) for file in files)
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        for one in detectors:
            task = progress.add_task(f"fitting {one.name} on {safe.rows:,} responses", total=1)
            one.fit(safe, seed=seed)
            progress.update(task, completed=1)
    scorer = Scorer(build_graph(detectors, safe))
    described = tuple(
        {"name": column, "reads": list(d.reads), "source": d.source}
        for column, d in zip(scorer.detectors, detectors, strict=True)
    )
    fitted = {
        "timestamp": time.time(),
        "tocsin": version("tocsin"),
        "rows": safe.rows,
        "share": share,
        "seed": seed,
        "files": {file.sha256: file.path.name for file in files},
    }
    bundle = Bundle(scorer, None, model or "", described, {"fitted": fitted}).write(out)
    console.print(
        f"wrote {out} ({bundle.digest[:19]}); next: tocsin calibrate {out} {data}", highlight=False, soft_wrap=True
    )


def require_fitting() -> None:
    """Raises ConfigError when the packages that fitting needs are not installed."""
    try:
        import onnx  # noqa: F401
        import spox  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"fitting needs {error.name}: pip install 'tocsin[fit]'") from None
