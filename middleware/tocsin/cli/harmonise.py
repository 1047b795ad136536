"""tocsin harmonise"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from tocsin.cli.recorded import ModelName
from tocsin.recording.reading import read_recording
from tocsin_calibration import CalibrationError
from tocsin_calibration import harmonise as make_harmoniser


def harmonise(
    data: Annotated[Path, typer.Argument(help="A recording with columns of what several sources say, none sure.")],
    answer: Annotated[str, typer.Option(help="The column of the model's own answers.")],
    source: Annotated[list[str], typer.Option(help="A column of what a weak source says; empty: it abstains; repeat.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A CSV file: row, answer, risk.")],
    features: Annotated[str, typer.Option(help="The signal that shows what the answers are about.")] = "embedding",
    how: Annotated[str, typer.Option(help="How sources are weighed: linear, quadratic or chebyshev.")] = "quadratic",
    model: ModelName = None,
) -> None:
    """Score each answer by how strongly several weak sources together contradict it. Needs no labels."""
    recording = read_recording(data, model, [features])
    shown = np.concatenate([batch[features] for batch in recording.batches()])
    columns = [recording.column(name, missing="") for name in (answer, *source)]
    words = sorted({str(value) for column in columns for value in column} - {""})
    number = {word: at for at, word in enumerate(words)} | {"": -1}
    said = np.array([[number[str(value)] for value in column] for column in columns]).T
    if (said[:, 0] < 0).any():
        raise CalibrationError(f"column '{answer}' lacks the model's answer in row {int(np.argmin(said[:, 0]))}")
    risk = make_harmoniser(shown, said, len(words), how).risk(shown, said[:, 0])  # type: ignore[arg-type]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "answer", "risk"))
        writer.writerows((row, words[said[row, 0]], f"{value:.6g}") for row, value in enumerate(risk))
    Console(highlight=False, soft_wrap=True).print(
        f"wrote {out}: risk of {len(risk):,} answers, {float(np.mean(risk)):.3f} on average. It is a score, not yet a "
        f"probability: calibrate it on what labels there are"
    )
