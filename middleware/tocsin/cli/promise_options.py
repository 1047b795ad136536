"""The options of `tocsin promise`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tocsin.recording.score_table import KINDS


@dataclass(frozen=True)
class PromiseOptions:
    """The options of `tocsin promise`; columns by name."""

    table: Annotated[Path, typer.Argument(help=f"Scores, a row for each response: {KINDS}.")]
    score: Annotated[str, typer.Option(help="The column of the score, or in JSON its dotted path.")]
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The bundle to write; without it, nothing is written."),
    ] = None
    alpha: Annotated[float, typer.Option(min=0, max=0.5, help="The false-alarm rate to promise, of `critical`.")] = 0.01
    warning: Annotated[
        float | None, typer.Option(min=0, max=0.5, help="A second, larger false-alarm rate, of `warning`.")
    ] = None
    label: Annotated[
        str | None, typer.Option(help="The column that says which responses should alarm; all others are safe.")
    ] = None
    session: Annotated[
        str | None, typer.Option(help="Promise for whole sessions, named by this column, with rows in their order.")
    ] = None
    group: Annotated[str | None, typer.Option(help="A promise for each value of this column.")] = None
    lower_is_worse: Annotated[
        bool, typer.Option("--lower-is-worse", help="A low score alarms, as of a safety or a log-probability.")
    ] = False
    threshold: Annotated[
        float | None, typer.Option(help="A threshold in use: its false alarms are shown beside the promised one's.")
    ] = None
    confidence: Annotated[
        float | None, typer.Option(help="Promise with this confidence; else with 0.95 where the rows suffice.")
    ] = None
    on_average: Annotated[
        bool, typer.Option("--on-average", help="Promise the rate on average over calibrations instead.")
    ] = False
    share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The share of safe rows to calibrate on; the others check it.")
    ] = 0.7
    leave_out_broken: Annotated[
        bool, typer.Option("--leave-out-broken", help="Leave rows out that hold no score: nothing, NaN, words.")
    ] = False
    model: Annotated[str, typer.Option(help="The model that the bundle is for.")] = ""
    seed: Annotated[int, typer.Option(help="Decides which rows are calibrated on.")] = 0
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None
