"""tocsin explain"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from tocsin.cli.scored_recording import ScoredRecording
from tocsin.cli.tables import print_table
from tocsin.errors import ConfigError, TocsinError
from tocsin.offline.scoring import responses_of
from tocsin.replay.explain import contributions, neighbours
from tocsin_calibration import Bundle


def explain(
    alarm_id: Annotated[str, typer.Argument(help="The id of an alarm, from the page, an event or the log.")],
    bundle: Annotated[Path, typer.Argument(help="The bundle that raised it.")],
    of: Annotated[str, typer.Option(help="The metrics address of the tocsin that raised it.")] = "127.0.0.1:9464",
    events: Annotated[Path | None, typer.Option(help="Look in this file of JSON lines instead.")] = None,
    safe: Annotated[
        Path | None, typer.Option(help="The recording that was calibrated on: names the responses most like it.")
    ] = None,
) -> None:
    """Explain an alarm: which detectors raised it, how extreme their scores are, and which safe responses are most
    similar.

    For an event about evidence: which part of the traffic has changed, and since when.
    """
    console = Console(highlight=False, soft_wrap=True)
    event = _in_file(events, alarm_id) if events is not None else _live(of, alarm_id)
    if "p" not in event and "causes" in event:
        _print_evidence(console, alarm_id, event)
        return
    if "worst" in event:
        console.print(f"{alarm_id} sums {event['alarms']:,} alarms of {event['model']}; this is the worst of them")
        event = {**event["worst"], "time": event["time"]}
    source = Bundle.read(bundle)
    promise = source.require_promise(bundle)
    if event["bundle"] != source.digest:
        raise ConfigError(f"{bundle}: the alarm was raised by {event['bundle'][:19]}, and this is {source.digest[:19]}")
    lines = [f"{event['severity']} alarm of {event['model']} at {event['time']}, p = {event['p']:.4g}"]
    for name in ("version", "session", "method", "trace_id", "action"):
        lines += [f"{name} {event[name]}"] if event.get(name) else []
    console.print(", ".join(lines))
    for words in (event.get("evidence") or {}).get("words", ()):
        console.print(f"by then, evidence: {words}", markup=False)
    parts = contributions(promise, event)
    rows = [
        (
            part.detector,
            f"{part.score:.4g}",
            f"{part.p:.3g}",
            f"{part.median:.4g}",
            f"{part.high:.4g}",
            f"{part.highest:.4g}",
            f"{part.threshold:.4g}",
            part.text,
        )
        for part in parts
    ]
    console.print()
    columns = ("detector", "score", "p", "calibration median", "99%", "highest", f"{event['severity']} above", "")
    print_table(console, columns, rows)
    shown = None if safe is None else ScoredRecording(source, responses_of(source, safe, None))
    scores = promise.reference if shown is None else np.asarray(shown.scores, np.float64)
    near = neighbours(promise, event, scores)
    which = "calibration responses" if safe is None else f"responses of {safe}"
    console.print(f"\nthe {which} most like it, distance in spreads of the calibration scores:")
    there = {} if shown is None else {name: shown.names(name) for name in ("time", "session") if name in shown.columns}
    print_table(
        console,
        ("response", "distance", *promise.detectors),
        [
            (
                " ".join([f"{neighbour.row:,}", *(values[neighbour.row] for values in there.values())]),
                f"{neighbour.distance:.3g}",
                *(f"{score:.4g}" for score in neighbour.scores.values()),
            )
            for neighbour in near
        ],
    )


def _print_evidence(console: Console, identifier: str, event: dict[str, Any]) -> None:
    """Print an event of what evidence has found, in words."""
    broken = f"the promise of {' and '.join(event['broken'])} is broken" if event["broken"] else "the promise holds"
    drifted = ", scores have drifted" if event["drifted"] else ""
    inputs = ", inputs have changed" if event.get("inputs") else ""
    said = f"{identifier}: evidence of {event['model']} at {event['time']}: {broken}{drifted}{inputs}"
    console.print(said, markup=False)
    for words in event["reasons"]:
        console.print(words, markup=False)


def _in_file(path: Path, wanted: str) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if wanted in line and (event := json.loads(line))["id"] == wanted:
                    return {**event["data"], "time": event["time"]}
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON lines of events ({error})") from None
    raise ConfigError(f"{path}: has no alarm {wanted}")


def _live(address: str, wanted: str) -> dict[str, Any]:
    """The event of an alarm that a running Tocsin remembers. Raises TocsinError."""
    try:
        with urllib.request.urlopen(f"http://{address}/alarms", timeout=10) as answer:
            events: list[dict[str, Any]] = json.load(answer)
    except urllib.error.HTTPError as error:
        problem = "its page is turned off (page: false)" if error.code == 404 else str(error)
        raise TocsinError(f"{address}: {problem}; --events FILE reads alarms from a file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TocsinError(
            f"{address}: no tocsin to be asked there ({reason}); --of names its metrics address"
        ) from None
    for event in events:
        if event["id"] == wanted:
            return event
    raise ConfigError(
        f"{address}: does not remember an alarm {wanted} (it has the last {len(events)}); --events FILE has older ones"
    )
