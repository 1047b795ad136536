"""tocsin watch"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tocsin.cli.log_lines import one_line
from tocsin.errors import ConfigError
from tocsin.replay.following import lines_of
from tocsin.replay.log_watch import LoggedAlarm, LogWatch, Standing
from tocsin_calibration import Bundle, CalibrationError
from tocsin_calibration.wording import percent

BATCH = 256  # rows that are judged at a time


def watch(
    data: Annotated[Path, typer.Argument(metavar="LOG", help="JSON lines, a row for each response; - for stdin.")],
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of text.")] = False,
) -> None:
    """Follow a log of scores against a bundle: alarms as they come, and the evidence on the promise."""
    if not 0 < delta < 1:
        raise CalibrationError(f"--delta: a probability lies between 0 and 1, not {delta:g}")
    source = Bundle.read(bundle)
    source.require_promise(bundle)
    fields = _fields(score or [], list(source.scorer.signals))
    held = LogWatch(source, fields, session=session, group=group, delta=delta, restart=restart, idle=idle)
    console = Console(highlight=False, soft_wrap=True, markup=False)

    def say(facts: dict[str, Any], text: str) -> None:
        console.print(json.dumps(facts) if as_json else text)

    looked = time.monotonic()
    shown = reported = 0
    with suppress(KeyboardInterrupt):
        for lines in lines_of(data, follow=follow):
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
    lines += [_standing(name, standing, held.promise.unit) for name, standing in standings.items()]
    if drift is not None:
        has_drifted = "; scores have drifted since calibration" if drift > held.drift_limit else ""
        lines.append(f"  drift: e-value {_evalue(drift)}{has_drifted}")
    say(facts, "\n".join(lines))


def _unscored(held: LogWatch) -> str:
    if not held.unscored:
        return ""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(held.unscored.items()))
    return f", {held.unscored.total():,} unscored ({reasons})"


def _standing(name: str, standing: Standing, unit: str) -> str:
    rate = percent(standing.alarms / standing.n) if standing.n else "-"
    line = f"  {name}: {standing.alarms:,} of {standing.n:,} {unit} ({rate}), promised {percent(standing.alpha)}"
    if standing.expected is not None:
        low, high = standing.expected
        line += f", {low:,} to {high:,} expected"
    if standing.evidence is not None:
        line += f"; e-value {_evalue(standing.evidence)}, {'the promise is broken' if standing.broken else 'kept'}"
    return line


def _evalue(evidence: float) -> str:
    """An e-value from its logarithm."""
    return f"{math.exp(evidence):.3g}" if evidence < 40 else f"e^{evidence:.0f}"
