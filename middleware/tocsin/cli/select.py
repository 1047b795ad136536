"""tocsin select"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from tocsin.cli.scored_recording import ScoredRecording
from tocsin.errors import ConfigError
from tocsin.offline.scoring import responses_of
from tocsin.recording.division import unseen_rows
from tocsin_calibration import Bundle, conformal_selection, optimised_selection, uniforms


def select(
    bundle: Annotated[Path, typer.Argument(help="A bundle whose detectors score responses.")],
    labelled: Annotated[Path, typer.Argument(help="A recording with a column that says which responses were good.")],
    new: Annotated[Path, typer.Argument(help="A recording of the batch to release from.")],
    correct: Annotated[str, typer.Option(help="That column.")] = "correct",
    fdr: Annotated[float, typer.Option(help="The share of bad ones among the released that is allowed.")] = 0.1,
    by: Annotated[
        str | None, typer.Option(help="The detector to go by; without it, the best for the batch, corrected (OptCS).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A CSV file: each row, and whether to release it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, where the recordings hold several.")] = None,
    seed: Annotated[int, typer.Option(help="Breaks ties.")] = 0,
) -> None:
    """Select the responses of a batch to release, so that at most a share of them is bad, in expectation."""
    source = Bundle.read(bundle)
    recording = responses_of(source, labelled, model)
    recording = recording.where(lambda file: unseen_rows(file, {"fitted": source.provenance.get("fitted", {})}))
    scored, batch = ScoredRecording(source, recording), responses_of(source, new, model)
    scores, good = scored.scores, scored.labels(correct)
    fresh = np.concatenate([source.scorer(part) for part in batch.batches()])  # in the recording's own order
    if by is None:
        released = optimised_selection(scores, good, fresh, fdr, float(uniforms(["batch"], seed)[0]))
        how = "OptCS over " + ", ".join(source.scorer.detectors)
    else:
        if by not in source.scorer.detectors:
            raise ConfigError(f"there is no detector '{by}' (there is: {', '.join(source.scorer.detectors)})")
        at = source.scorer.detectors.index(by)
        u = uniforms(range(batch.rows), seed)
        released, how = conformal_selection(scores[:, at], good, fresh[:, at], fdr, u), by
    Console(highlight=False, soft_wrap=True).print(
        f"release {int(released.sum()):,} of {batch.rows:,}: at most {fdr:.3g} of them bad, in expectation, if the "
        f"batch is exchangeable with the {recording.rows:,} labelled responses ({how})"
    )
    if out is not None:
        with out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("row", "release"), *enumerate(np.asarray(released, int).tolist())])
