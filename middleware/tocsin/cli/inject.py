"""tocsin inject"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

import tocsin
from tocsin.cli.serve import ConfigPath
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.kubernetes.inject import inject as injected
from tocsin.kubernetes.sidecar import Sidecar


def inject(
    manifests: Annotated[Path, typer.Argument(help="YAML with Deployments and their kind; - reads standard input.")],
    config: ConfigPath = Path("tocsin.yaml"),
    bundles: Annotated[
        str, typer.Option(help="Where bundles come from: configmap:NAME, pvc:CLAIM or image:REFERENCE; none without.")
    ] = "",
    image: Annotated[str, typer.Option(help="An image in which tocsin is installed.")] = f"tocsin:{tocsin.__version__}",
    config_map: Annotated[str, typer.Option(help="The name of the ConfigMap with the configuration.")] = "tocsin",
    native: Annotated[
        bool, typer.Option("--native/--plain", help="A native sidecar (Kubernetes 1.29), or one more container.")
    ] = True,
) -> None:
    """Put the sidecar into Kubernetes manifests: kubectl get -o yaml ... | tocsin inject - | kubectl apply -f -."""
    settings = Config.load(config)
    if settings.upstream.path or settings.listen.path:
        raise ConfigError(f"{config}: listen and upstream: inside a pod both are HOST:PORT")
    try:
        text = sys.stdin.read() if str(manifests) == "-" else manifests.read_text()
        documents = [part for part in yaml.safe_load_all(text) if part]
    except yaml.YAMLError as error:
        raise ConfigError(f"{manifests}: is not YAML ({' '.join(str(error).split())})") from None
    documents = [item for part in documents for item in (part["items"] if part.get("kind") == "List" else [part])]
    sidecar = Sidecar(settings, yaml.safe_load(config.read_text()), image, _volume(bundles), config_map, native)
    made, told = injected(documents, sidecar)
    for line in told:
        typer.echo(line, err=True)
    typer.echo(yaml.safe_dump_all(made, sort_keys=False), nl=False)


def _volume(bundles: str) -> dict[str, Any]:
    """The source of the volume with the bundles."""
    if not bundles:
        return {}
    kind, _, name = bundles.partition(":")
    sources: dict[str, dict[str, Any]] = {
        "configmap": {"configMap": {"name": name}},
        "pvc": {"persistentVolumeClaim": {"claimName": name, "readOnly": True}},
        "image": {"image": {"reference": name}},
    }
    if kind not in sources or not name:
        raise ConfigError(f"--bundles: expected configmap:NAME, pvc:CLAIM or image:REFERENCE, not '{bundles}'")
    return sources[kind]
