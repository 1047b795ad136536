"""tocsin gate"""

from __future__ import annotations

import json
import time
import traceback
from datetime import UTC, datetime, timedelta
from math import inf, log
from typing import Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from tocsin.cli.from_options import command
from tocsin.cli.gate_options import GateOptions
from tocsin.cli.tables import print_table
from tocsin.configuration.fields import Duration
from tocsin.configuration.pairs import read_pairs
from tocsin.errors import ConfigError, TocsinError
from tocsin.rollouts.prometheus import check_matchers
from tocsin.rollouts.promql import Compared
from tocsin.rollouts.reading import Reading, Source, read
from tocsin.rollouts.templates import Kind, argo, flagger, with_defaults
from tocsin_calibration import CalibrationFault
from tocsin_calibration.online.rollout_gate import AnytimeInterval, DecisionEvidence, GateVerdict, RolloutGate

EXIT_CODES = {"promote": 0, "abort": 1, "continue": 3}  # 2: an error, or a mistake of the caller's
DEFAULT_ADDRESS = "http://prometheus.monitoring:9090"  # of a template


@command(GateOptions)
def gate(options: GateOptions) -> None:
    """Decide whether to promote or abort a canary, by its alarms beside the stable version's. Valid however often it is
    run.

    Exit codes: 0 promote, 1 abort, 3 continue, 2 an error.
    """
    held_to = RolloutGate(options.delta, options.beta, options.excess, options.level)
    if options.template is not None:
        waits = _seconds(options.wait or "1h", "--wait")
        address = options.prometheus or DEFAULT_ADDRESS
        typer.echo(_template(options.template, _compared(options), held_to, address, waits), nl=False)
        return
    decision, verdict, reading = _wait_for_decision(held_to, _source(options), options.wait)
    if options.as_json:
        typer.echo(json.dumps(_facts(decision, verdict, reading, held_to), indent=1))
    else:
        _show(Console(highlight=False, soft_wrap=True), decision, verdict, reading, held_to)
    raise typer.Exit(EXIT_CODES[decision])


def _source(options: GateOptions) -> Source:
    """Where the counts come from. Raises ConfigError where an option cannot be read."""
    return Source(
        options.canary or [],
        options.stable or [],
        options.rate,
        options.shadow,
        options.baseline,
        options.severity,
        options.model,
        options.prometheus,
        _moment(options.since),
        _seconds(options.within, "--within"),
        _seconds(options.every, "--every"),
        options.looks,
        read_pairs(options.headers, "--headers"),
        options.most_unscored,
    )


def _wait_for_decision(held_to: RolloutGate, source: Source, wait: str | None) -> tuple[str, GateVerdict, Reading]:
    """Look once, or with `wait` once a batch until it is decided or the time is over."""
    until = time.monotonic() + (0.0 if wait is None else _seconds(wait, "--wait"))
    while True:
        decision, verdict, reading = _look(held_to, source)
        remaining = until - time.monotonic()
        if decision != "continue" or remaining <= 0:
            return decision, verdict, reading
        time.sleep(min(source.every, remaining))


def _compared(options: GateOptions) -> Compared:
    """What a template compares. Raises ConfigError where a template cannot be made of the options."""
    if options.model is None:
        raise ConfigError("--template needs the name of the --model")
    if options.shadow or (options.rate is not None and options.stable):
        raise ConfigError("--template compares a canary with a --stable version or with a promised --rate")
    canary, stable = options.canary or [], options.stable or []
    for option, matchers in (("--canary", canary), ("--stable", stable)):
        for text in matchers[:2]:
            check_matchers(text, option)
        if len(matchers) > 1:
            raise ConfigError(f"{option}: one list of label matchers, such as 'pod=~\"mine-.*\"'")
    batch, window = _seconds(options.every, "--every"), _seconds(options.within, "--within")
    if batch < 1 or batch != round(batch) or window < batch or window != round(window):
        raise ConfigError("--every and --within are whole seconds in a template, and --within the longer of the two")
    return Compared(
        options.model,
        options.severity,
        (canary or [""])[0],
        (stable or [""])[0],
        options.rate,
        options.baseline,
        int(batch),
        int(window),
    )


def _template(kind: Kind, compared: Compared, held_to: RolloutGate, address: str, waits: float) -> str:
    limits = {"abort": log(1 / held_to.delta), "promote": log(1 / held_to.beta)}
    limits |= {"delta": held_to.delta, "beta": held_to.beta, "excess": held_to.excess}
    full = with_defaults(compared, kind)
    return argo(full, limits, address, waits) if kind == "argo" else flagger(full, limits, address)


def _look(held_to: RolloutGate, source: Source) -> tuple[str, GateVerdict, Reading]:
    terms: dict[str, Any] = {"delta": held_to.delta, "beta": held_to.beta, "excess": held_to.excess}
    terms |= {"baseline": source.baseline, "rate": source.rate}
    try:
        reading = read(source, terms)
        verdict = held_to.verdict(reading.comparison)
    except (TocsinError, CalibrationFault, OSError):
        raise
    except Exception:  # a fault of ours must not end with the exit code that says "abort"
        traceback.print_exc()
        raise typer.Exit(2) from None
    decision = "continue" if verdict.decision == "promote" and reading.withheld else verdict.decision
    return decision, verdict, reading


def _facts(decision: str, verdict: GateVerdict, reading: Reading, held_to: RolloutGate) -> dict[str, Any]:
    facts = {**verdict.facts(), "decision": decision, "remarks": reading.remarks, "withheld": reading.withheld}
    terms = {"delta": held_to.delta, "beta": held_to.beta, "excess": held_to.excess, "level": held_to.level}
    return {**facts, "gate": terms}


def _show(console: Console, decision: str, verdict: GateVerdict, reading: Reading, held_to: RolloutGate) -> None:
    console.print(f"[bold]{decision}[/]: {_reason(decision, verdict, held_to)}")
    rows = [("canary", f"{verdict.canary_alarms:,}", f"{verdict.canary_responses:,}", _rate(verdict.canary_rate))]
    if verdict.stable_alarms is None:
        rows.append(("promised", "", "", f"{verdict.reference.value:.2%}"))
    else:
        rows.append(("stable", f"{verdict.stable_alarms:,}", f"{verdict.stable_responses:,}", _rate(verdict.reference)))
    print_table(console, ("", "alarms", "responses", f"rate ({held_to.level:.0%} at all looks)"), rows)
    console.print(f"the canary alarms {_times(verdict.ratio)} as often")
    console.print(f"abort: {_evidence(verdict.abort)}; ever wrong with probability at most {held_to.delta:g}")
    console.print(
        f"promote: {_evidence(verdict.promote)}; ever wrong at {held_to.excess:g} times the rate or more with "
        f"probability at most {held_to.beta:g}"
    )
    for remark in (*(f"not promoted: {reason}" for reason in reading.withheld), *reading.remarks):
        console.print(remark, style="dim")


def _reason(decision: str, verdict: GateVerdict, held_to: RolloutGate) -> str:
    if decision == "abort":
        return "the canary alarms more often than it may"
    if decision == "promote":
        return f"the canary does not alarm {held_to.excess:g} times as often"
    return "undecided yet" if verdict.canary_responses else "undecided: nothing of the canary has been counted yet"


def _evidence(evidence: DecisionEvidence) -> str:
    if evidence.reached is not None:
        return (
            f"evidence e^{evidence.highest:.1f} to 1, enough (e^{evidence.limit:.1f}) after batch {evidence.reached:,}"
        )
    text = f"evidence e^{evidence.log_evalue:.1f} to 1 of e^{evidence.limit:.1f}"
    if evidence.responses_needed is None:
        return text
    return f"{text}, in about {evidence.responses_needed:,} more canary responses at the rates so far"


def _rate(interval: AnytimeInterval) -> str:
    return f"{interval.value:.2%} ({interval.low:.2%} to {interval.high:.2%})"


def _times(interval: AnytimeInterval) -> str:
    high = "any number of" if interval.high == inf else f"{interval.high:.3g}"
    value = "infinitely many" if interval.value == inf else f"{interval.value:.3g}"
    return f"{value} times ({interval.low:.3g} to {high})"


def _seconds(text: str, option: str) -> float:
    try:
        duration: timedelta = TypeAdapter(Duration).validate_python(text)
    except ValidationError as error:
        raise ConfigError(f"{option}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    return duration.total_seconds()


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since is a time in ISO 8601, such as 2026-11-24T06:00, not '{text}'") from None
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()
