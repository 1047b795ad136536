"""tocsin rules"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from tocsin.alerting.monitor import monitor
from tocsin.alerting.promise import promise
from tocsin.alerting.rule import as_file, as_manifest, as_values
from tocsin.alerting.watched import RuleOptions, watched
from tocsin.cli.serve import ConfigPath
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError

RUNBOOKS = "docs/runbooks"


def rules(
    config: ConfigPath = Path("tocsin.yaml"),
    kind: Annotated[
        Literal["file", "PrometheusRule", "values"],
        typer.Option(help="A file for `rule_files`, the operator's resource, or values for the Helm chart."),
    ] = "file",
    delta: Annotated[float, typer.Option(help="Probability that evidence ever pages while promises are kept.")] = 0.01,
    run_length: Annotated[
        float, typer.Option(help="Responses between two false pages, where `evidence: run_length` is configured.")
    ] = 1e6,
    max_age: Annotated[int, typer.Option(help="Days after which a calibration is stale.", min=1)] = 30,
    unscored: Annotated[float, typer.Option(help="The share of unscored responses that raises an alert.")] = 0.05,
    by: Annotated[
        list[str] | None, typer.Option(help="A label that distinguishes deployments (namespace, ...).")
    ] = None,
    upstream_rate: Annotated[
        str, typer.Option(help="PromQL for the requests a second that the model server counts; pages when bypassed.")
    ] = "",
    runbooks: Annotated[str, typer.Option(help="Where the pages of docs/runbooks are to be read.")] = RUNBOOKS,
    name: Annotated[str, typer.Option(help="The PrometheusRule's name.")] = "tocsin",
    label: Annotated[list[str] | None, typer.Option(help="A label of the PrometheusRule, KEY=VALUE.")] = None,
) -> None:
    """Write the Prometheus rules that follow from the promises of a configuration's bundles."""
    settings = Config.load(config)
    options = RuleOptions(delta, run_length, timedelta(days=max_age), unscored, by or [], upstream_rate)
    models = watched(settings)
    groups = [promise(models, options), monitor(models, settings, options)]
    if kind == "file":
        typer.echo(as_file(groups, runbooks), nl=False)
    elif kind == "values":
        typer.echo(as_values(groups, runbooks, _labels(label or [])), nl=False)
    else:
        typer.echo(as_manifest(groups, runbooks, name, _labels(label or [])), nl=False)


def _labels(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if not re.fullmatch(r"[^=]+=[^=]*", pair):
            raise ConfigError(f"--label: '{pair}' is not KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
