"""What can be asked of `tocsin calibrate`, panel by panel of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tocsin.recording.reading import GROUP, SESSION

PROMISE, SESSIONS, WORTH, DATA = "The promise", "Sessions", "What is caught, what answers are worth", "Which responses"

Bundle = Annotated[Path, typer.Argument(help="The bundle that `tocsin fit` wrote.")]
Data = Annotated[
    Path, typer.Argument(help="Safe responses: a Parquet file or a folder. Rows it was fitted on are left out.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The bundle to write; else the same file.")]
Warning = Annotated[
    float, typer.Option(min=0, max=0.5, help="The false-alarm rate of warnings.", rich_help_panel=PROMISE)
]
Critical = Annotated[
    float, typer.Option(min=0, max=0.5, help="The false-alarm rate of critical alarms.", rich_help_panel=PROMISE)
]
Rule = Annotated[
    str,
    typer.Option(
        help="any: alarm when some detector stands out; all: when every one does; '2 of 3': when two of three do; "
        "learnt: when their weighted sum does.",
        rich_help_panel=PROMISE,
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        help="Promise the rates for this very calibration with this confidence; else with 0.95, those that the data "
        "suffice for.",
        show_default=False,
        rich_help_panel=PROMISE,
    ),
]
OnAverage = Annotated[
    bool,
    typer.Option(
        "--on-average", help="Promise the rates on average over calibrations instead.", rich_help_panel=PROMISE
    ),
]
Contaminated = Annotated[
    float,
    typer.Option(help="Keep the rates although up to this share of the data is not safe.", rich_help_panel=PROMISE),
]
Groups = Annotated[
    str | None,
    typer.Option(help=f"A promise for each value of this column, such as {GROUP} or version.", rich_help_panel=PROMISE),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="A column of likelihood ratios: how much more often such a response is expected.",
        rich_help_panel=PROMISE,
    ),
]
Target = Annotated[
    Path | None,
    typer.Option(
        help="A recording of the traffic expected; likelihood ratios are learnt from it.", rich_help_panel=PROMISE
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="A column of true classes: the traffic expected has other shares of them (--expected).",
        rich_help_panel=PROMISE,
    ),
]
Expected = Annotated[
    list[str] | None,
    typer.Option(help="CLASS=SHARE of the traffic expected; once for each class.", rich_help_panel=PROMISE),
]
Sessions = Annotated[
    str | None,
    typer.Option(
        help=f"Promise for whole sessions, told apart by this column, such as {SESSION}.", rich_help_panel=SESSIONS
    ),
]
Window = Annotated[
    int, typer.Option(min=1, help="With --sessions: how many of the last scores count.", rich_help_panel=SESSIONS)
]
How = Annotated[str, typer.Option(help="With --sessions: their sum or mean.", rich_help_panel=SESSIONS)]
Style = Annotated[
    str,
    typer.Option(
        help="With --sessions: max, band (follows the usual course) or step (a promise a step).",
        rich_help_panel=SESSIONS,
    ),
]
Every = Annotated[
    int | None,
    typer.Option(min=1, help="With --sessions: promise for stretches of so many responses.", rich_help_panel=SESSIONS),
]
Failures = Annotated[
    Path | None,
    typer.Option(
        help="A recording of what should alarm: measures what is caught; half of it teaches the rule learnt.",
        rich_help_panel=WORTH,
    ),
]
Correct = Annotated[
    str | None,
    typer.Option(
        help="A column that says whether each answer was right: learns the probability that answers are.",
        rich_help_panel=WORTH,
    ),
]
CorrectBy = Annotated[str, typer.Option(help="How: venn_abers, isotonic, platt or temperature.", rich_help_panel=WORTH)]
MaxError = Annotated[
    float | None,
    typer.Option(
        help="With --correct: bound the risk of serving wrong answers; the rest abstains.", rich_help_panel=WORTH
    ),
]
MaxErrorBy = Annotated[
    str,
    typer.Option(
        help="crc: wrong and served, of all, on average; ltt or sgr: wrong among served, with confidence 0.9.",
        rich_help_panel=WORTH,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Leave an incident out: START/END in ISO 8601, UTC; may be repeated.", rich_help_panel=DATA),
]
Only = Annotated[
    Path | None,
    typer.Option(
        help="Only sessions that this file names, one a line: those known to have gone well.", rich_help_panel=DATA
    ),
]
Newest = Annotated[int | None, typer.Option(min=1, help="Only so many of the newest responses.", rich_help_panel=DATA)]
Sample = Annotated[int | None, typer.Option(min=1, help="So many responses, drawn at random.", rich_help_panel=DATA)]
Compare = Annotated[
    bool, typer.Option("--compare", help="Compare with the bundle's calibration; write only with --out.")
]
Model = Annotated[str | None, typer.Option(help="The model, where the recording holds several.", rich_help_panel=DATA)]
LeaveOutBroken = Annotated[
    bool,
    typer.Option("--leave-out-broken", help="Leave responses out that hold NaN or infinity.", rich_help_panel=DATA),
]
AsIs = Annotated[
    bool,
    typer.Option(
        "--as-is",
        help="Calibrate on all responses, although they are copies, drift, or are alike.",
        rich_help_panel=DATA,
    ),
]
Share = Annotated[
    float,
    typer.Option(
        min=0.01, max=1.0, help="The share of rows to calibrate on; evaluate gets the others.", rich_help_panel=DATA
    ),
]
Seed = Annotated[
    int, typer.Option(help="Decides the rows, and which of them set the detectors' scales.", rich_help_panel=DATA)
]
