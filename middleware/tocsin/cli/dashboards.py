"""tocsin dashboards"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from tocsin.cli.rules import RUNBOOKS
from tocsin.errors import ConfigError


def dashboards(
    folder: Annotated[
        Path | None, typer.Argument(help="Where the JSON files go; without it, a ConfigMap is printed.")
    ] = None,
    runbooks: Annotated[str, typer.Option(help="Where the pages of docs/runbooks are to be read.")] = RUNBOOKS,
    name: Annotated[str, typer.Option(help="The ConfigMap's name.")] = "tocsin-dashboards",
    label: Annotated[
        str, typer.Option(help="The ConfigMap's label, by which Grafana finds it, KEY=VALUE.")
    ] = "grafana_dashboard=1",
) -> None:
    """Write the Grafana dashboards: the promise, for everybody, and internals, for operators."""
    written = {f"tocsin-{title}.json": as_json(board) for title, board in boards(runbooks).items()}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in written.items():
            (folder / file).write_text(content)
            typer.echo(f"wrote {folder / file}", err=True)
        return
    key, equals, value = label.partition("=")
    if not key or not equals:
        raise ConfigError(f"--label: '{label}' is not KEY=VALUE")
    metadata = {"name": name, "labels": {key: value}}
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": written}
    typer.echo(yaml.safe_dump(manifest, sort_keys=False, width=120), nl=False)


def boards(runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """The dashboards, built. Raises ConfigError when Grafana's builders are not installed."""
    try:
        from tocsin.dashboards.plumbing import plumbing
        from tocsin.dashboards.promise import promise
    except ImportError:
        raise ConfigError("dashboards need Grafana's builders: pip install 'tocsin[dashboards]'") from None
    return {"promise": promise(runbooks).build(), "plumbing": plumbing(runbooks).build()}


def as_json(board: Any) -> str:
    """A dashboard in the form that Grafana imports and provisions, and that grafana.com takes.

    Its data source is a variable, so that an import asks for nothing (`__inputs`). `__requires` names the panels, and
    the version of Grafana whose builders made it.
    """
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    content = json.loads(json.dumps(board, cls=JSONEncoder))
    grafana = version("grafana-foundation-sdk").rpartition("!")[2]
    panels = sorted({panel["type"] for panel in content["panels"]} - {"row"})
    content["__inputs"], content["__elements"] = [], {}
    content["__requires"] = [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": grafana},
        {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
        *({"type": "panel", "id": panel, "name": panel, "version": ""} for panel in panels),
    ]
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
