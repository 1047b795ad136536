"""The page's content for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tocsin.page.answers import duration, has_scored, reason
from tocsin_calibration.wording import percent

LEVELS = " ▁▂▃▄▅▆▇█"
WIDTH = 40  # points of a sparkline
COLOURS = {"critical": "bold red", "warning": "yellow"}


STATES = {"good": "green", "bad": "bold red"}


def picture(snapshot: dict[str, Any], alarms: Sequence[dict[str, Any]] | None = None) -> RenderableType:
    """A snapshot as text, with these alarms, the newest first, or else its own."""
    now = datetime.fromtimestamp(snapshot["time"], UTC)
    parts: list[RenderableType] = [Text.assemble(("Tocsin ", "bold"), f"{snapshot['mode']}, {now:%H:%M:%S} UTC")]
    for answer in snapshot.get("answers", ()):  # which an older tocsin does not have
        style = STATES.get(answer["state"], "")
        parts.append(Text.assemble((f"{answer['question']:27}", "bold"), (answer["answer"], style)))
    parts += [_model(model, snapshot["added"]) for model in snapshot["models"]]
    if snapshot["more"]:
        parts.append(Text(f"and {snapshot['more']:,} more models, with less evidence against them", style="dim"))
    parts += [Text(f"{name} has no bundle: its responses pass unscored", style="dim") for name in snapshot["unguarded"]]
    parts.append(_alarms(snapshot["alarms"] if alarms is None else alarms))
    return Group(*parts)


def _model(model: dict[str, Any], added: dict[str, float | None]) -> Panel:
    """One model's panel."""
    lines: list[Text] = []
    for severity in reversed(model["severities"]):
        judged, evidence = model["judged"], severity["evidence"]
        rate = percent(severity["alarms"] / judged) if judged else "-"
        style = "bold red" if severity["broken"] else COLOURS.get(severity["name"], "")
        line = f"{severity['name']:9}{rate:>6} ({severity['alarms']:,} of {judged:,}) "
        lines.append(Text(line, style=style).append_text(_sparkline(severity["rates"])))
        promised = f"         promised {percent(severity['alpha'])}"
        if severity["low"] is not None:
            promised += f", expect {percent(severity['low'])} to {percent(severity['high'])}"
        promised += f"; evidence against it e^{evidence:.1f}" if evidence is not None else ""
        lines.append(Text(promised, style="dim"))
    if (moved := model.get("inputs")) is not None:
        said = "other than at calibration" if model["inputs_changed"] else "no other than at calibration so far"
        lines.append(Text(f"inputs   {said}; evidence of a change e^{moved:.1f}", style="dim"))
    if finding := model.get("finding"):  # not shown by an older tocsin
        lines += [Text(words, style="bold") for words in finding["words"]]
    scoring, unscored = model["scoring"], sum(model["unscored"].values())
    cost = (
        f"scoring {duration(scoring['median'])}, 99% {duration(scoring['p99'])}; waiting 99% {duration(added['p99'])}"
    )
    lines.append(Text("p-values ").append_text(_histogram(model["pvalues"])).append(" times the promise", style="dim"))
    lines.append(Text(f"cost     {cost}; {unscored:,} unscored"))
    broken = any(severity["broken"] for severity in model["severities"])
    quiet = any(severity["quiet"] for severity in model["severities"])
    status = "[green]promise kept, far fewer alarms than expected" if quiet else "[green]promise kept"
    state = "[bold red]promise broken" if broken else "[bold red]drifted" if model["drifted"] else status
    if not model["judged"]:
        unended = model["unit"] != "responses" and has_scored(model)
        state = f"[dim]no {model['unit']} have ended yet" if unended else "[dim]no traffic yet"
    title = f"[bold]{escape(model['name'])}[/] {state}[/] [dim]{model['digest'][:19]}"
    return Panel(Group(*lines), title=title, title_align="left", border_style="red" if "red" in state else "dim")


def _sparkline(rates: Sequence[dict[str, Any]]) -> Text:
    """Shares of alarms, newest last. Those beyond what chance explains are red."""
    points = [point for point in rates if point["rate"] is not None][-WIDTH:]
    top = max([point["rate"] for point in points] + [point["high"] for point in points] + [1e-9])
    drawn = Text()
    for point in points:
        drawn.append(_block(point["rate"] / top), style="red" if point["rate"] > point["high"] else "cyan")
    return drawn


def _histogram(model: dict[str, Any]) -> Text:
    """P-values by bucket as blocks, each bucket's count by what is expected of it."""
    total = sum(model["counts"])
    times = [
        count / total / share if total and share else 0
        for count, share in zip(model["counts"], model["expected"], strict=True)
    ]
    top = max([2.0, *times])
    return Text("".join(_block(frequency / top) for frequency in times), style="cyan")


def _block(share: float) -> str:
    return LEVELS[min(len(LEVELS) - 1, max(0, round(share * (len(LEVELS) - 1))))]


def _alarms(alarms: Iterable[dict[str, Any]]) -> Table:
    """The latest alarms as a table."""
    table = Table("time", "severity", "model", "what", title="Last alarms", title_justify="left", box=None, expand=True)
    for entry in alarms:
        alarm = entry["worst"] if "alarms" in entry else entry
        severity = Text(alarm["severity"], style=COLOURS.get(alarm["severity"], ""))
        names = {"session": alarm["session"], "trace": alarm["trace_id"]}
        of = "".join(f", {name} {escape(value)}" for name, value in names.items() if value)
        what = f"{escape(reason(entry))}  [dim]{entry['id']}{of}"
        table.add_row(entry["time"][11:19], severity, escape(entry["model"]), what)
    if not table.row_count:
        table.add_row("", "", "", "[dim]none")
    return table
