"""The options of `tocsin gate`, in the panels of its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

COUNTS, EVIDENCE = "What is compared", "What is held to"


@dataclass(frozen=True)
class GateOptions:
    """The options of `tocsin gate`, as they were typed."""

    canary: Annotated[
        list[str] | None,
        typer.Option(
            help="ALARMS/RESPONSES; or a sidecar's metrics address, once for each replica; or with --prometheus, label "
            "matchers.",
            rich_help_panel=COUNTS,
        ),
    ] = None
    stable: Annotated[
        list[str] | None, typer.Option(help="The same of the stable version.", rich_help_panel=COUNTS)
    ] = None
    rate: Annotated[
        float | None,
        typer.Option(help="In place of --stable: the promised rate, such as 0.05.", rich_help_panel=COUNTS),
    ] = None
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow", help="Compare the candidate bundle (shadow:) with the live one.", rich_help_panel=COUNTS
        ),
    ] = False
    prometheus: Annotated[
        str | None, typer.Option(help="The URL of a Prometheus that scrapes both.", rich_help_panel=COUNTS)
    ] = None
    model: Annotated[str | None, typer.Option(help="The model's name in metrics.", rich_help_panel=COUNTS)] = None
    severity: Annotated[
        str, typer.Option(help="Alarms of this severity or a more severe one.", rich_help_panel=COUNTS)
    ] = "warning"
    since: Annotated[
        str | None,
        typer.Option(
            help="When the rollout began, in ISO 8601 (UTC); else with the canary's first sample.",
            rich_help_panel=COUNTS,
        ),
    ] = None
    within: Annotated[str, typer.Option(help="How far back the canary may have begun.", rich_help_panel=COUNTS)] = "24h"
    every: Annotated[
        str,
        typer.Option(help="The length of a batch: both versions are compared batch by batch.", rich_help_panel=COUNTS),
    ] = "1m"
    looks: Annotated[
        Path | None,
        typer.Option(help="A file that keeps counts between looks, for scrapes and counts.", rich_help_panel=COUNTS),
    ] = None
    headers: Annotated[
        Path | None,
        typer.Option(help="A file of HTTP headers, NAME=VALUE, such as a token.", rich_help_panel=COUNTS),
    ] = None
    delta: Annotated[float, typer.Option(help="Probability of ever aborting wrongly.", rich_help_panel=EVIDENCE)] = 0.01
    beta: Annotated[
        float, typer.Option(help="Probability of ever promoting at the excess.", rich_help_panel=EVIDENCE)
    ] = 0.05
    excess: Annotated[
        float, typer.Option(help="A canary that alarms so many times as often is bad.", rich_help_panel=EVIDENCE)
    ] = 1.5
    baseline: Annotated[
        float,
        typer.Option(
            help="About how often the stable version alarms: makes the gate quicker, not surer.",
            rich_help_panel=EVIDENCE,
        ),
    ] = 0.05
    level: Annotated[float, typer.Option(help="Of intervals, at all looks at once.", rich_help_panel=EVIDENCE)] = 0.95
    most_unscored: Annotated[
        float,
        typer.Option(help="The share of unscored responses beyond which none is promoted.", rich_help_panel=EVIDENCE),
    ] = 0.05
    wait: Annotated[
        str | None, typer.Option(help="Look again, once a batch, until it is decided or so much time is over.")
    ] = None
    template: Annotated[
        Literal["argo", "flagger"] | None,
        typer.Option(
            help="Look at nothing, but write the gate as AnalysisTemplates for Argo Rollouts, or a MetricTemplate for "
            "Flagger, that look by themselves in --prometheus."
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
