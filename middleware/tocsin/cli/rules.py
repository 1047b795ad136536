"""tocsin rules"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from tocsin.alerting.monitor import monitor
from tocsin.alerting.promise import promise
from tocsin.alerting.rule import Group, as_file, as_manifest, as_values
from tocsin.alerting.watched import RuleOptions, watched
from tocsin.cli.serve import ConfigPath
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError

RUNBOOKS = "docs/runbooks"


def rules(
    config: ConfigPath = Path("tocsin.yaml"),
    kind: Annotated[
        Literal["file", "PrometheusRule", "values", "grafana"],
        typer.Option(
            help="A file for `rule_files`, the operator's resource, values for the Helm chart, or a file of rules that "
            "Grafana evaluates."
        ),
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
    name: Annotated[str, typer.Option(help="The PrometheusRule's name; what UIDs in Grafana begin with.")] = "tocsin",
    label: Annotated[list[str] | None, typer.Option(help="A label of the PrometheusRule, KEY=VALUE.")] = None,
    datasource: Annotated[str, typer.Option(help="grafana: the UID of the Prometheus data source.")] = "prometheus",
    folder: Annotated[str, typer.Option(help="grafana: the folder that shows the rules.")] = "Tocsin",
    receiver: Annotated[
        str, typer.Option(help="grafana: the contact point that gets the alerts; else notification policies decide.")
    ] = "",
) -> None:
    """Write the alert rules that follow from the promises of a configuration's bundles."""
    settings = Config.load(config)
    options = RuleOptions(
        delta, run_length, timedelta(days=max_age), unscored, by or [], upstream_rate, texts_query=kind != "grafana"
    )
    models = watched(settings)
    groups = [promise(models, options), monitor(models, settings, options)]
    if kind == "file":
        typer.echo(as_file(groups, runbooks), nl=False)
    elif kind == "values":
        typer.echo(as_values(groups, runbooks, _labels(label or [])), nl=False)
    elif kind == "grafana":
        typer.echo(_as_grafana(groups, runbooks, name, datasource, folder, receiver), nl=False)
    else:
        typer.echo(as_manifest(groups, runbooks, name, _labels(label or [])), nl=False)


def _as_grafana(groups: Sequence[Group], runbooks: str, name: str, datasource: str, folder: str, receiver: str) -> str:
    """Raises ConfigError when Grafana's builders are not installed."""
    try:
        from tocsin.alerting.grafana import GrafanaOptions, as_grafana
    except ImportError:
        raise ConfigError("rules for Grafana need its builders: pip install 'tocsin[dashboards]'") from None
    return as_grafana(groups, runbooks, GrafanaOptions(datasource, folder, name, receiver))


def _labels(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if not re.fullmatch(r"[^=]+=[^=]*", pair):
            raise ConfigError(f"--label: '{pair}' is not KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
