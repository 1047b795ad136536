"""tocsin attach"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import yaml

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import ConfigError
from tocsin.ext_proc.attach import CLUSTER, attached
from tocsin.gateways.agentgateway import agentgateway
from tocsin.gateways.document import read
from tocsin.gateways.envoy_check import check_envoy
from tocsin.gateways.envoy_config import envoy_config
from tocsin.gateways.envoy_gateway import envoy_gateway
from tocsin.gateways.findings import Effect, EnvoyFault, breaks_closed
from tocsin.gateways.gke import gke
from tocsin.gateways.istio import istio
from tocsin.gateways.modes import Written
from tocsin.gateways.needs import Needs
from tocsin.gateways.placement import Placement
from tocsin.judgement.guard import Guard

HEAD = """\
# For Tocsin in mode {mode}: put the filter before envoy.filters.http.router in the listener's http_filters, and the
# cluster among static_resources.clusters.
"""


class Gateway(StrEnum):
    """Whose configuration is printed."""

    ENVOY = "envoy"
    ENVOY_GATEWAY = "envoy-gateway"
    ISTIO = "istio"
    AGENTGATEWAY = "agentgateway"
    GKE = "gke"


POLICIES: dict[Gateway, Callable[[Config, Guard, Placement], Written]] = {
    Gateway.ENVOY_GATEWAY: envoy_gateway,
    Gateway.ISTIO: istio,
    Gateway.AGENTGATEWAY: agentgateway,
    Gateway.GKE: gke,
}


def attach(
    file: Annotated[Path, typer.Argument(help="The processor's configuration file.")] = Path("tocsin.yaml"),
    processor: Annotated[
        str,
        typer.Option(
            help="Where Envoy finds the processor, HOST:PORT; by default on its own machine. In Kubernetes its "
            "Service, SERVICE.NAMESPACE:PORT."
        ),
    ] = "",
    cluster: Annotated[str, typer.Option(help="The name of the processor's cluster in Envoy.")] = CLUSTER,
    gateway: Annotated[
        Gateway, typer.Option("--for", help="Envoy's own configuration, or the policy of a gateway in Kubernetes.")
    ] = Gateway.ENVOY,
    target: Annotated[
        str, typer.Option(help="What a policy applies to: Gateway/NAME, HTTPRoute/NAME or GRPCRoute/NAME.")
    ] = "",
    name: Annotated[str, typer.Option(help="The policy's name.")] = "tocsin",
    namespace: Annotated[str, typer.Option(help="The policy's namespace.")] = "",
    check: Annotated[
        Path | None,
        typer.Option(
            help="An Envoy's configuration, or /config_dump of its admin port (- is standard input): say which "
            "responses would pass unjudged, and the lines to change. Ends with 1 where some would."
        ),
    ] = None,
) -> None:
    """Print what puts the processor before a model: Envoy's ext_proc filter and cluster, or the policy of a gateway in
    Kubernetes. With --check, say what an Envoy's configuration lets pass unjudged.
    """
    config = Config.load(file)
    guard = Guard.open(config)
    if check is not None:
        _check(config, guard, check, cluster)
        return
    try:
        if gateway is not Gateway.ENVOY:
            port = config.ext_proc.port if config.ext_proc is not None else 0
            placement = Placement.of(name, namespace, target, processor, port)
            _print(POLICIES[gateway](config, guard, placement), config)
            return
        written = attached(config, guard, _target(config, processor), cluster)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    typer.echo(HEAD.format(mode=config.mode), nl=False)
    typer.echo(yaml.safe_dump(written, sort_keys=False, width=120), nl=False)


def _print(policy: Written, config: Config) -> None:
    typer.echo(f"# For Tocsin in mode {config.mode}: kubectl apply -f -")
    for note in policy.notes:
        typer.echo(f"# Note: {note}.")
    typer.echo(yaml.safe_dump_all(policy.documents, sort_keys=False, width=120), nl=False)


def _check(config: Config, guard: Guard, path: Path, cluster: str) -> None:
    """Print what is wrong with an Envoy configuration, and exit with 1 where a response that must be judged would pass
    unjudged. `cluster` is Tocsin's, of Envoy's clusters.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot be read: {error}") from None
    needs = Needs.of(config, guard)
    findings = check_envoy(envoy_config(read(text, name), name), needs, cluster)
    for finding in findings:
        typer.echo(_described(finding, name))
    breaking = sum(breaks_closed(finding, closed=needs.fails_closed) for finding in findings)
    policy = "fail: closed" if needs.fails_closed else "fail: open" if needs.enforces else f"mode: {needs.mode}"
    if breaking:
        typer.echo(f"{breaking} of {len(findings)} findings let responses pass that must be judged ({policy})")
        raise typer.Exit(1)
    typer.echo(f"nothing passes unjudged that must be judged ({policy}); findings: {len(findings)}")


def _described(finding: EnvoyFault, name: str) -> str:
    place = f"{name}:{finding.line}" if finding.line else name
    effect = "note" if finding.effect is Effect.NOTE else f"what comes this way {finding.effect}"
    change = f"\n    write: {finding.change}" if finding.change else ""
    return f"{place}: {finding.where}: {effect}\n    {finding.wrong}{change}"


def _target(config: Config, processor: str) -> Address:
    if processor:
        host, colon, port = processor.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise ValueError(f"--processor: expected HOST:PORT, not '{processor}'")
        return Address(host.strip("[]"), int(port))
    listen = config.ext_proc or Address()
    return Address("127.0.0.1", listen.port) if listen.host in ("0.0.0.0", "::") else listen
