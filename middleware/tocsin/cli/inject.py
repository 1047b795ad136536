"""tocsin inject"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

import tocsin
from tocsin.cli.serve import ConfigPath
from tocsin.errors import ConfigError
from tocsin.kubernetes.inject import inject as injected
from tocsin.kubernetes.sidecar import SidecarContainer


def inject(
    manifests: Annotated[Path, typer.Argument(help="YAML with Deployments and their kind; - reads standard input.")],
    config: ConfigPath = Path("tocsin.yaml"),
    bundles: Annotated[
        str, typer.Option(help="Where bundles come from: configmap:NAME, pvc:CLAIM or image:REFERENCE.")
    ] = "",
    secret: Annotated[
        list[str] | None,
        typer.Option(help="A Secret with files that the configuration names (keys, certificates, tokens); repeat."),
    ] = None,
    image: Annotated[str, typer.Option(help="An image in which tocsin is installed.")] = f"tocsin:{tocsin.__version__}",
    config_map: Annotated[
        str, typer.Option(help="The name of the ConfigMap with the configuration; else the workload's, and -tocsin.")
    ] = "",
    native: Annotated[
        bool, typer.Option("--native/--plain", help="A native sidecar (Kubernetes 1.29), or one more container.")
    ] = True,
) -> None:
    """Add the sidecar to Kubernetes manifests: kubectl get -o yaml ... | tocsin inject - | kubectl apply -f -."""
    sidecar = SidecarContainer.of(
        config, image, _volume(bundles), secrets=secret or [], config_map=config_map, native=native
    )
    try:
        text = sys.stdin.read() if str(manifests) == "-" else manifests.read_text()
        documents = [part for part in yaml.safe_load_all(text) if part]
    except yaml.YAMLError as error:
        raise ConfigError(f"{manifests}: is not YAML ({' '.join(str(error).split())})") from None
    if not all(isinstance(part, dict) for part in documents):
        raise ConfigError(f"{manifests}: holds something that is no manifest")
    documents = [item for part in documents for item in (part["items"] if part.get("kind") == "List" else [part])]
    results, notes = injected(documents, sidecar)
    for line in notes:
        typer.echo(line, err=True)
    typer.echo(yaml.dump_all(results, Dumper=_Readable, sort_keys=False, allow_unicode=True), nl=False)


class _Readable(yaml.SafeDumper):
    """Writes text of several lines, such as the configuration, as blocks, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


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
