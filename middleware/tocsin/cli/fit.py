"""tocsin fit"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tocsin.cli.engine_option import On
from tocsin.cli.fit_suggestions import show_suggestions
from tocsin.cli.output_files import require_writable
from tocsin.cli.recorded import LeaveOutBroken, ModelName
from tocsin.cli.row_choice import of_sessions
from tocsin.errors import ConfigError
from tocsin.offline.engine import HERE, engine_of
from tocsin.offline.fitting import fit_detectors
from tocsin.recording.division import Division, fitting_rows
from tocsin.recording.reading import SESSION, Recording, read_recording
from tocsin_calibration import Bundle
from tocsin_detectors import Detector, Features, FittingData, Scorer
from tocsin_detectors.features import parse_features, with_features
from tocsin_detectors.graph import build_graph, column_names, free_lengths, masked_signals, signals_of
from tocsin_detectors.registry import names, parse


def fit(
    data: Annotated[Path, typer.Argument(help="A recording of safe traffic: a Parquet file or a folder of them.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle to write.")] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            "--detector",
            "-d",
            help=f"NAME, NAME:SIGNAL or NAME:SIGNAL,SETTING=VALUE; may be repeated. Names: {', '.join(names())}.",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            help="SIGNAL=FILE.onnx: a signal that a model computes from others, inside the bundle's graph. "
            "Add ,INPUT=SIGNAL where an input is named otherwise, and ,output=NAME for another than the first.",
        ),
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Say which detectors can read the recording, and what they cost.")
    ] = False,
    shifted: Annotated[
        Path | None,
        typer.Option(
            help="With --suggest: a recording of what should alarm, to measure how well each detector separates it."
        ),
    ] = None,
    model: ModelName = None,
    share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The share of rows to fit on; calibrate gets the others.")
    ] = 0.4,
    seed: Annotated[int, typer.Option(help="Decides the rows and every random start.")] = 0,
    sessions: Annotated[
        str | None, typer.Option(help="Keep sessions whole, named by this column, for a promise for whole sessions.")
    ] = None,
    only: Annotated[
        Path | None,
        typer.Option(help="Only sessions that this file names, one a line: those known to have gone well."),
    ] = None,
    leave_out_broken: LeaveOutBroken = False,
    memory: Annotated[
        int, typer.Option(min=1, help="Megabytes of signals to hold; what is larger is read again and again.")
    ] = 1024,
    on: On = HERE,
) -> None:
    """Fit detectors on safe responses and write them as a bundle. Calibrate it next."""
    require_fitting()
    before = [parse_features(spec) for spec in features or []]
    if suggest:
        show_suggestions(data, shifted, model, before, share=share, seed=seed, leave_out_broken=leave_out_broken)
        return
    if out is None or not detector:
        raise ConfigError("name a bundle with --out and detectors with --detector; --suggest says which fit the data")
    require_writable(out)
    detectors = [parse(spec) for spec in detector]
    column_names(detectors)  # which refuses the same one twice
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    recording = open_recording(data, model, detectors, before)
    division = Division(share, seed, sessions)
    mine = recording.where(lambda file: fitting_rows(file, division))
    mine = of_sessions(mine, only, sessions or SESSION, console)
    if leave_out_broken:
        mine = without_broken(mine, console, masked_signals(detectors, before))
    safe: FittingData = mine.load() if mine.size <= memory << 20 else mine
    with _progress(console, mine) as progress:
        extended = with_features(safe, before, signals_of(detectors))
        if on == HERE:
            for chosen in detectors:
                with progress(f"fitting {chosen.name} on {safe.rows:,} responses"):
                    chosen.fit(extended, seed=seed)
        else:
            with progress(f"fitting {len(detectors)} detectors on {safe.rows:,} responses on {on}"):
                detectors = fit_detectors(detectors, extended, seed, engine_of(on))
    scorer = Scorer(build_graph(detectors, safe, before))
    provenance = {
        "fitted": {
            "timestamp": time.time(),
            "tocsin": version("tocsin"),
            "rows": safe.rows,
            **division.facts(),
            "files": {file.sha256: file.path.name for file in recording.files},
        }
    }
    bundle = Bundle(
        scorer, None, model or "", _detector_records(detectors, scorer, extended, before), provenance
    ).write(out)
    console.print(f"wrote {out} ({bundle.digest[:19]}); next: tocsin calibrate {out} {data}")


def open_recording(path: Path, model: str | None, detectors: Sequence[Detector], features: list[Features]) -> Recording:
    """The recording, with the signals that the detectors and the features before them read."""
    feature_names = {feature.name for feature in features}
    readers: list[Detector | Features] = [*features, *detectors]
    wanted = [s for reader in readers for s in reader.reads if s not in feature_names]
    optional = [s for s in signals_of(detectors) if s not in feature_names]
    free = free_lengths(detectors, features)
    return read_recording(path, model, dict.fromkeys(wanted), optional=optional, free=free)


def without_broken(recording: Recording, console: Console, masked: Collection[str] = ()) -> Recording:
    """The responses without NaN or infinity, except -inf in `masked` signals. Prints how many were left out."""
    finite = recording.finite_rows(masked)
    if dropped := recording.rows - finite.rows:
        console.print(
            f"left out {dropped:,} of {recording.rows:,} responses that hold NaN or infinity; serving passes such "
            f"responses unscored (not_finite)"
        )
    return finite


def _detector_records(
    detectors: Sequence[Detector], scorer: Scorer, safe: FittingData, features: list[Features]
) -> tuple[dict[str, Any], ...]:
    """What the bundle records about each detector. Its cost is measured here: microseconds a response, of a graph with
    this detector alone that scores 8 responses at once.
    """
    costs = [Scorer(build_graph([d], safe)).cost(8) for d in detectors]
    computed = {feature.name: list(feature.reads) for feature in features}
    return tuple(
        {
            "name": column,
            "reads": list(d.reads),
            "source": d.source,
            "cost_us": round(cost * 1e6, 2),
            **({"computed": computed} if set(d.reads) & set(computed) else {}),
        }
        for column, d, cost in zip(scorer.detectors, detectors, costs, strict=True)
    )


@contextmanager
def _progress(console: Console, recording: Recording) -> Iterator[Any]:
    """Shows which detector is being fitted, and how many rows were read from disk for it."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[read]}"), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:

        @contextmanager
        def on_step(what: str) -> Iterator[None]:
            rows = 0
            task = progress.add_task(what, total=1, read="")

            def read(more: int) -> None:
                nonlocal rows
                rows += more
                progress.update(task, read=f"{rows:,} rows read")

            recording.on_read = read
            yield
            recording.on_read = Recording.on_read
            progress.update(task, completed=1)

        yield on_step


def require_fitting() -> None:
    """Raises ConfigError when a package that fitting needs is not installed. Packages are imported where they are used:
    torch and scikit-learn take seconds, which detectors that need neither should not wait for.
    """
    for name in ("onnx", "sklearn", "spox", "torch"):
        if find_spec(name) is None:
            raise ConfigError(f"fitting needs {name}: pip install 'tocsin[fit]'")
