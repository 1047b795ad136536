"""The options of `tocsin calibrate`, in the panels of its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.engine_option import On
from tocsin.offline.engine import HERE
from tocsin.recording.reading import GROUP, SESSION
from tocsin_calibration import SessionRule, Window

PROMISE, SESSIONS, WORTH, DATA = "The promise", "Sessions", "What is caught, what answers are worth", "Which responses"


@dataclass(frozen=True)
class CalibrateOptions:
    """The options of `tocsin calibrate`; columns and recordings by name."""

    bundle: Annotated[Path, typer.Argument(help="The bundle that `tocsin fit` wrote.")]
    data: Annotated[
        Path, typer.Argument(help="Safe responses: a Parquet file or a folder. Rows it was fitted on are left out.")
    ]
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle to write; else the same file.")] = None
    warning: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="The false-alarm rate of warnings; 0: there are none.", rich_help_panel=PROMISE
        ),
    ] = 0.05
    critical: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="The false-alarm rate of critical alarms; 0: there are none.", rich_help_panel=PROMISE
        ),
    ] = 0.01
    rule: Annotated[
        str,
        typer.Option(
            help="any: alarm when some detector stands out; all: when every one does; '2 of 3': when two of three do; "
            "learnt: when their weighted sum does.",
            rich_help_panel=PROMISE,
        ),
    ] = "any"
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Promise the rates for this very calibration with this confidence; else with 0.95, those that the "
            "data suffice for.",
            show_default=False,
            rich_help_panel=PROMISE,
        ),
    ] = None
    on_average: Annotated[
        bool,
        typer.Option(
            "--on-average", help="Promise the rates on average over calibrations instead.", rich_help_panel=PROMISE
        ),
    ] = False
    contaminated: Annotated[
        float,
        typer.Option(help="Keep the rates although up to this share of the data is not safe.", rich_help_panel=PROMISE),
    ] = 0.0
    scales: Annotated[
        Path | None,
        typer.Option(
            help="Set the detectors' scales by this recording, such as the one that they were fitted on, instead of by "
            "a third of the data: for few safe responses or sessions. What is calibrated on is left out of it.",
            rich_help_panel=PROMISE,
        ),
    ] = None
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep up to 512 responses' projections of this signal, such as embedding, in the bundle, to watch for "
            "changes of the inputs whatever scores do; may be repeated.",
            rich_help_panel=PROMISE,
        ),
    ] = None
    groups: Annotated[
        str | None,
        typer.Option(
            help=f"A promise for each value of this column, such as {GROUP} or version.", rich_help_panel=PROMISE
        ),
    ] = None
    by_class: Annotated[
        str | None,
        typer.Option(
            "--by-class",
            help="A promise for each class that this signal names, such as probs: its likeliest choice, or the label "
            "itself where it is one number. Serving reads it from the responses.",
            rich_help_panel=PROMISE,
        ),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            help="A column of likelihood ratios: how much more often such a response is expected.",
            rich_help_panel=PROMISE,
        ),
    ] = None
    target: Annotated[
        Path | None,
        typer.Option(
            help="A recording of the traffic expected; likelihood ratios are learnt from it.", rich_help_panel=PROMISE
        ),
    ] = None
    classes: Annotated[
        str | None,
        typer.Option(
            help="A column of true classes: the traffic expected has other shares of them (--expected).",
            rich_help_panel=PROMISE,
        ),
    ] = None
    expected: Annotated[
        list[str] | None,
        typer.Option(help="CLASS=SHARE of the traffic expected; once for each class.", rich_help_panel=PROMISE),
    ] = None
    sessions: Annotated[
        str | None,
        typer.Option(
            help=f"Promise for whole sessions, named by this column, such as {SESSION}.", rich_help_panel=SESSIONS
        ),
    ] = None
    window: Annotated[
        int, typer.Option(min=1, help="With --sessions: how many of the last scores count.", rich_help_panel=SESSIONS)
    ] = 1
    how: Annotated[str, typer.Option(help="With --sessions: their sum or mean.", rich_help_panel=SESSIONS)] = "mean"
    style: Annotated[
        str,
        typer.Option(
            help="With --sessions: max, band (follows the usual course) or step (a promise a step).",
            rich_help_panel=SESSIONS,
        ),
    ] = "max"
    every: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --sessions: promise for stretches of so many responses.", rich_help_panel=SESSIONS
        ),
    ] = None
    failures: Annotated[
        Path | None,
        typer.Option(
            help="A recording of what should alarm: measures what is caught; half of it teaches the rule learnt.",
            rich_help_panel=WORTH,
        ),
    ] = None
    correct: Annotated[
        str | None,
        typer.Option(
            help="A column that says whether each answer was right: learns the probability that answers are.",
            rich_help_panel=WORTH,
        ),
    ] = None
    correct_by: Annotated[
        str, typer.Option(help="How: venn_abers, isotonic, platt or temperature.", rich_help_panel=WORTH)
    ] = "venn_abers"
    max_error: Annotated[
        float | None,
        typer.Option(
            help="With --correct: bound the risk of serving wrong answers; the rest abstains.", rich_help_panel=WORTH
        ),
    ] = None
    max_error_by: Annotated[
        str,
        typer.Option(
            help="crc: wrong and served, of all, on average; ltt or sgr: wrong among served, with confidence 0.9.",
            rich_help_panel=WORTH,
        ),
    ] = "crc"
    only: Annotated[
        Path | None,
        typer.Option(
            help="Only sessions that this file names, one a line: those known to have gone well.", rich_help_panel=DATA
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave an incident out: START/END in ISO 8601, UTC; may be repeated.", rich_help_panel=DATA),
    ] = None
    newest: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the newest responses.", rich_help_panel=DATA)
    ] = None
    sample: Annotated[
        int | None, typer.Option(min=1, help="So many responses, drawn at random.", rich_help_panel=DATA)
    ] = None
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with the bundle's calibration; write only with --out.")
    ] = False
    model: Annotated[
        str | None, typer.Option(help="The model, where the recording holds several.", rich_help_panel=DATA)
    ] = None
    leave_out_broken: Annotated[
        bool,
        typer.Option("--leave-out-broken", help="Leave responses out that hold NaN or infinity.", rich_help_panel=DATA),
    ] = False
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Calibrate on all responses, although they are copies, drift, or are alike.",
            rich_help_panel=DATA,
        ),
    ] = False
    share: Annotated[
        float,
        typer.Option(
            min=0.01, max=1.0, help="The share of rows to calibrate on; evaluate gets the others.", rich_help_panel=DATA
        ),
    ] = 1.0
    seed: Annotated[
        int, typer.Option(help="Decides the rows, and which of them set the detectors' scales.", rich_help_panel=DATA)
    ] = 0
    on: On = HERE

    @property
    def alphas(self) -> dict[str, float]:
        """The false-alarm rates by severity; a severity with rate 0 is left out."""
        named = {"warning": self.warning, "critical": self.critical}
        return {severity: alpha for severity, alpha in named.items() if alpha}

    @property
    def session_rule(self) -> SessionRule:
        """How the scores of a session are combined into one."""
        return SessionRule(Window(self.window, self.how), self.style, self.every)  # type: ignore[arg-type]

    @property
    def of_each_by_itself(self) -> bool:
        """Whether each response can be processed on its own: no other columns, no sessions."""
        columns = (self.groups, self.by_class, self.weights, self.target, self.classes, self.sessions, self.correct)
        return not any((self.scales, self.inputs, *columns))

    @property
    def other_signals(self) -> list[str]:
        """The signals that calibration reads besides the detectors'."""
        return [] if self.by_class is None else [self.by_class]
