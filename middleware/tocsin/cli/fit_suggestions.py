"""tocsin fit --suggest"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tocsin.errors import ConfigError
from tocsin.recording.division import Division, fitting_rows
from tocsin.recording.reading import read_recording
from tocsin_detectors import Features, FittingData
from tocsin_detectors.features import with_features
from tocsin_detectors.graph import free_lengths, masked_signals
from tocsin_detectors.registry import find, names
from tocsin_detectors.separation import Interval
from tocsin_detectors.suggest import suggest


def show_suggestions(
    data: Path,
    shifted: Path | None,
    model: str | None,
    features: Sequence[Features],
    *,
    share: float,
    seed: int,
    leave_out_broken: bool,
) -> None:
    """Print which detectors can read the recording's fitting share, and how well they tell `shifted`."""
    console = Console(highlight=False, soft_wrap=True)
    every = [find(name)() for name in names()]
    free, masked = free_lengths(every, features), masked_signals(every, features)

    def read(path: Path, wanted: Sequence[str] = ()) -> FittingData:
        recording = read_recording(path, model, wanted, free=free)
        if path == data:
            recording = recording.where(lambda file: fitting_rows(file, Division(share, seed)))
        finite = recording.finite_rows(masked) if leave_out_broken else recording
        return with_features(finite, features, [*finite.names(), *(feature.name for feature in features)])

    safe = read(data)
    if safe.rows < 50:
        raise ConfigError(f"{data}: {safe.rows} responses to fit on are too few to suggest by; record more")
    if shifted is not None:
        raw = [name for name in safe.names() if name not in {feature.name for feature in features}]
        other: FittingData | None = read(shifted, raw)
    else:
        other = None
    with Console(stderr=True).status("trying detectors") as status:
        suggestions, refused = suggest(safe, other, seed=seed, on_try=lambda spec: status.update(f"trying {spec}"))
    table = Table(box=None, pad_edge=False)
    for column in ("detector", "us at batch 1", "us at 64", *(("AUROC", "FPR at 95% TPR") if other else ())):
        table.add_column(column, justify="left" if column == "detector" else "right", no_wrap=True)
    for suggestion in suggestions:
        intervals = [_interval(figure) for figure in suggestion.separation] if suggestion.separation else []
        table.add_row(suggestion.spec, f"{suggestion.cost[0] * 1e6:.1f}", f"{suggestion.cost[1] * 1e6:.2f}", *intervals)
    console.print(table)
    if refused:
        console.print("\ncannot be fitted on this recording:")
        for no in refused:
            console.print(f"  {no.spec}: {no.why}")
    if other is not None:
        console.print(
            f"\n95% bootstrap intervals in brackets, on safe responses held out from these fits. "
            f"What is chosen by a figure looks better by it than it is: keep other traffic like {shifted} to judge the "
            f"bundle by. `tocsin calibrate` uses none of these responses."
        )


def _interval(figure: Interval) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]".replace("[", r"\[")
