"""tocsin watch"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tocsin.cli.log_lines import one_line
from tocsin.cli.standing_lines import evalue, standing_line
from tocsin.cli.watch_histogram import HistogramSource, watch_histogram
from tocsin.errors import ConfigError
from tocsin.replay.following import lines_of
from tocsin.replay.log_watch import LoggedAlarm, LogWatch
from tocsin_calibration import Bundle, CalibrationError

BATCH = 256  # rows that are judged at a time


def watch(
    data: Annotated[
        str,
        typer.Argument(
            metavar="LOG",
            help="JSON lines, a row for each response; - for stdin. With --histogram metrics: a URL or a file.",
        ),
    ],
    bundle: Annotated[Path, typer.Argument(help="The bundle that promises, as `tocsin promise` writes it.")],
    score: Annotated[
        list[str] | None,
        typer.Option(
            help="The field of the score, a dotted path; SIGNAL=FIELD where the bundle reads several; may be repeated. "
            "Else the field of the signal's name.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, as the log is written.")] = False,
    session: Annotated[str | None, typer.Option(help="The field that names each row's session.")] = None,
    group: Annotated[str | None, typer.Option(help="The field that names each row's group.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Rows between two looks at the evidence.")] = 1_000,
    delta: Annotated[float, typer.Option(help="The probability that a kept promise is ever called broken.")] = 0.01,
    restart: Annotated[int, typer.Option(min=1, help="Rows after which evidence starts a new window.")] = 1_000,
    idle: Annotated[float, typer.Option(min=0, help="Seconds of silence after which a session has ended.")] = 600.0,
    histogram: Annotated[
        str | None,
        typer.Option(
            help='A classic histogram of Prometheus to watch instead of a log, such as guard_score{model="chat"}; '
            "tocsin_pvalue and tocsin_score are Tocsin's own, any other counts the score that the bundle reads.",
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks at the histogram, with --follow.")
    ] = 15.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of text.")] = False,
) -> None:
    """Follow a log or a histogram of scores against a bundle: alarms as they come, and the evidence on the promise."""
    if not 0 < delta < 1:
        raise CalibrationError(f"--delta: a probability lies between 0 and 1, not {delta:g}")
    source = Bundle.read(bundle)
    source.require_promise(bundle)
    if histogram is not None:
        counts = HistogramSource(data, histogram, interval if follow else None, delta, restart, as_json)
        watch_histogram(source, counts)
        return
    fields = _fields(score or [], list(source.scorer.signals))
    held = LogWatch(source, fields, session=session, group=group, delta=delta, restart=restart, idle=idle)
    console = Console(highlight=False, soft_wrap=True, markup=False)

    def say(facts: dict[str, Any], text: str) -> None:
        console.print(json.dumps(facts) if as_json else text)

    looked = time.monotonic()
    shown = reported = 0
    with suppress(KeyboardInterrupt):
        for lines in lines_of(Path(data), follow=follow):
            for start in range(0, len(lines), BATCH):
                for alarm in held.take(lines[start : start + BATCH]):
                    say({"alarm": alarm._asdict()}, _alarm(alarm))
                if held.rows - shown >= every:
                    shown = reported = held.rows
                    _report(held, say)
            if not lines and time.monotonic() - looked > 1.0:
                looked = time.monotonic()
                held.look()
    held.end()
    if reported != held.rows or not held.rows:
        _report(held, say)


def _fields(told_by: list[str], signals: list[str]) -> dict[str, str]:
    """Where each signal stands, as told."""
    fields: dict[str, str] = {}
    for text in told_by:
        name, equals, path = text.partition("=")
        if not equals:
            if len(signals) > 1:
                raise ConfigError(f"--score {text}: the bundle reads {', '.join(signals)}; write SIGNAL=FIELD for each")
            name, path = signals[0], text
        fields[name] = path
    return fields


def _alarm(alarm: LoggedAlarm) -> str:
    scores = ", ".join(f"{name} {value:.6g}" for name, value in alarm.scores.items())
    belongs = "".join(
        f", {what} {one_line(name)}" for what, name in (("session", alarm.session), ("group", alarm.group)) if name
    )
    return f"row {alarm.row:,}: {alarm.severity}, {scores}, p {alarm.p:.4g}{belongs}"


def _report(held: LogWatch, say: Callable[[dict[str, Any], str], None]) -> None:
    """Tell how it stands."""
    standings, drift = held.standings(), held.drift()
    facts: dict[str, Any] = {
        "rows": held.rows,
        "unscored": dict(held.unscored),
        "severities": {name: standing._asdict() for name, standing in standings.items()},
        "drift": drift,
    }
    lines = [f"{held.rows:,} rows{_unscored(held)}"]
    lines += [standing_line(name, standing, held.promise.unit) for name, standing in standings.items()]
    if drift is not None:
        has_drifted = "; scores have drifted since calibration" if drift > held.drift_limit else ""
        lines.append(f"  drift: e-value {evalue(drift)}{has_drifted}")
    say(facts, "\n".join(lines))


def _unscored(held: LogWatch) -> str:
    if not held.unscored:
        return ""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(held.unscored.items()))
    return f", {held.unscored.total():,} unscored ({reasons})"
