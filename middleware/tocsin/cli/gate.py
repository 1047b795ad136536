"""tocsin gate"""

from __future__ import annotations

import json
import time
import traceback
from datetime import UTC, datetime, timedelta
from math import inf, log
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

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
COUNTS, EVIDENCE = "What is compared", "What is held to"


def gate(
    canary: Annotated[
        list[str] | None,
        typer.Option(
            help="ALARMS/RESPONSES; or a sidecar's metrics address, once for each replica; or with --prometheus, label "
            "matchers.",
            rich_help_panel=COUNTS,
        ),
    ] = None,
    stable: Annotated[
        list[str] | None, typer.Option(help="The same of the stable version.", rich_help_panel=COUNTS)
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="In place of --stable: the promised rate, such as 0.05.", rich_help_panel=COUNTS),
    ] = None,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow", help="Compare the candidate bundle (shadow:) with the live one.", rich_help_panel=COUNTS
        ),
    ] = False,
    prometheus: Annotated[
        str | None, typer.Option(help="The URL of a Prometheus that scrapes both.", rich_help_panel=COUNTS)
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name in metrics.", rich_help_panel=COUNTS)] = None,
    severity: Annotated[
        str, typer.Option(help="Alarms of this severity or a more severe one.", rich_help_panel=COUNTS)
    ] = "warning",
    since: Annotated[
        str | None,
        typer.Option(
            help="When the rollout began, in ISO 8601 (UTC); else with the canary's first sample.",
            rich_help_panel=COUNTS,
        ),
    ] = None,
    within: Annotated[
        str, typer.Option(help="How far back the canary may have begun.", rich_help_panel=COUNTS)
    ] = "24h",
    every: Annotated[
        str,
        typer.Option(help="The length of a batch: both versions are compared batch by batch.", rich_help_panel=COUNTS),
    ] = "1m",
    looks: Annotated[
        Path | None,
        typer.Option(help="A file that keeps counts between looks, for scrapes and counts.", rich_help_panel=COUNTS),
    ] = None,
    headers: Annotated[
        Path | None,
        typer.Option(help="A file of HTTP headers, NAME=VALUE, such as a token.", rich_help_panel=COUNTS),
    ] = None,
    delta: Annotated[
        float, typer.Option(help="Probability of ever aborting wrongly.", rich_help_panel=EVIDENCE)
    ] = 0.01,
    beta: Annotated[
        float, typer.Option(help="Probability of ever promoting at the excess.", rich_help_panel=EVIDENCE)
    ] = 0.05,
    excess: Annotated[
        float, typer.Option(help="A canary that alarms so many times as often is bad.", rich_help_panel=EVIDENCE)
    ] = 1.5,
    baseline: Annotated[
        float,
        typer.Option(
            help="About how often the stable version alarms: makes the gate quicker, not surer.",
            rich_help_panel=EVIDENCE,
        ),
    ] = 0.05,
    level: Annotated[float, typer.Option(help="Of intervals, at all looks at once.", rich_help_panel=EVIDENCE)] = 0.95,
    most_unscored: Annotated[
        float,
        typer.Option(help="The share of unscored responses beyond which none is promoted.", rich_help_panel=EVIDENCE),
    ] = 0.05,
    wait: Annotated[
        str | None, typer.Option(help="Look again, once a batch, until it is decided or so much time is over.")
    ] = None,
    template: Annotated[
        Literal["argo", "flagger"] | None,
        typer.Option(
            help="Look at nothing, but write the gate as AnalysisTemplates for Argo Rollouts, or a MetricTemplate for "
            "Flagger, that look by themselves in --prometheus."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say whether to promote or abort a canary, by its alarms beside the stable version's, whenever you look.

    Exit codes: 0 promote, 1 abort, 3 continue, 2 an error.
    """
    held_to = RolloutGate(delta, beta, excess, level)
    if template is not None:
        compared = _compared(canary, stable, rate, model, severity, baseline, every, within, shadow=shadow)
        waits = _seconds(wait or "1h", "--wait")
        typer.echo(_template(template, compared, held_to, prometheus or DEFAULT_ADDRESS, waits), nl=False)
        return
    source = Source(
        canary or [],
        stable or [],
        rate,
        shadow,
        baseline,
        severity,
        model,
        prometheus,
        _moment(since),
        _seconds(within, "--within"),
        _seconds(every, "--every"),
        looks,
        read_pairs(headers, "--headers"),
        most_unscored,
    )
    until = time.monotonic() + (0.0 if wait is None else _seconds(wait, "--wait"))
    while True:
        decision, verdict, reading = _look(held_to, source)
        remaining = until - time.monotonic()
        if decision != "continue" or remaining <= 0:
            break
        time.sleep(min(source.every, remaining))
    if as_json:
        typer.echo(json.dumps(_facts(decision, verdict, reading, held_to), indent=1))
    else:
        _show(Console(highlight=False, soft_wrap=True), decision, verdict, reading, held_to)
    raise typer.Exit(EXIT_CODES[decision])


def _compared(
    canary: list[str] | None,
    stable: list[str] | None,
    rate: float | None,
    model: str | None,
    severity: str,
    baseline: float,
    every: str,
    within: str,
    *,
    shadow: bool,
) -> Compared:
    """What a template compares, from the options of a gate."""
    if model is None:
        raise ConfigError("--template needs the name of the --model")
    if shadow or (rate is not None and stable):
        raise ConfigError("--template compares a canary with a --stable version or with a promised --rate")
    for option, matchers in (("--canary", canary or []), ("--stable", stable or [])):
        for text in matchers[:2]:
            check_matchers(text, option)
        if len(matchers) > 1:
            raise ConfigError(f"{option}: one list of label matchers, such as 'pod=~\"mine-.*\"'")
    batch, window = _seconds(every, "--every"), _seconds(within, "--within")
    if batch < 1 or batch != round(batch) or window < batch or window != round(window):
        raise ConfigError("--every and --within are whole seconds in a template, and --within the longer of the two")
    labels = ((canary or [""])[0], (stable or [""])[0])
    return Compared(model, severity, *labels, rate, baseline, int(batch), int(window))


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
