"""tocsin sets"""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from tocsin.cli.scored_recording import labels_in
from tocsin.recording.reading import Recording, read_recording
from tocsin_calibration import calibrate_label_sets


def sets(
    labelled: Annotated[Path, typer.Argument(help="A recording with a column of true or false for each label.")],
    new: Annotated[Path, typer.Argument(help="A recording of responses to find prediction sets for.")],
    label: Annotated[list[str], typer.Option(help="A label's column, in the order of the scores; repeat.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A CSV file: row, place (nearest first), labels.")],
    scores: Annotated[str, typer.Option(help="The signal that holds a score in [0, 1] for each label.")] = "probs",
    alpha: Annotated[float, typer.Option(help="How often the true set may be missing.")] = 0.1,
    most: Annotated[int, typer.Option(min=1, help="Write so many sets of a response at most.")] = 10,
    model: Annotated[str | None, typer.Option(help="The model, where the recordings hold several.")] = None,
) -> None:
    """Compute prediction sets of label combinations that contain the true one as often as promised."""
    labelled_rows, fresh = (read_recording(path, model, [scores]) for path in (labelled, new))
    truth = np.stack([labels_in(labelled_rows, name) for name in label], axis=1)
    powerset = calibrate_label_sets(_scores(labelled_rows, scores), truth, alpha)
    certain = 0
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "place", "labels"))
        for row, shown in enumerate(_scores(fresh, scores)):
            label_sets = powerset.sets(shown)
            certain += int(label_sets.certain.sum())
            for place, labels in enumerate(islice(label_sets, most), 1):
                writer.writerow((row, place, " ".join(n for n, there in zip(label, labels, strict=True) if there)))
    Console(highlight=False, soft_wrap=True).print(
        f"wrote {out}: the true set is among those within distance {powerset.tau:.3f} for at least {1 - alpha:.0%} of "
        f"responses like the {labelled_rows.rows:,} labelled ones; {certain / max(1, fresh.rows):.1f} of "
        f"{len(label)} labels "
        f"are the same in all of a response's sets"
    )


def _scores(recording: Recording, signal: str) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(batch[signal], np.float64) for batch in recording.batches()])
