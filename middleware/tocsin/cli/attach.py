"""tocsin attach"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import ConfigError
from tocsin.ext_proc.attach import CLUSTER, attached
from tocsin.judgement.guard import Guard

HEAD = """\
# For Tocsin in mode {mode}: put the filter before envoy.filters.http.router in the listener's http_filters, and the
# cluster among static_resources.clusters.
"""


def attach(
    file: Annotated[Path, typer.Argument(help="The processor's configuration file.")] = Path("tocsin.yaml"),
    processor: Annotated[
        str, typer.Option(help="Where Envoy finds the processor, HOST:PORT; by default on its own machine.")
    ] = "",
    cluster: Annotated[str, typer.Option(help="The name of the processor's cluster in Envoy.")] = CLUSTER,
) -> None:
    """Print the ext_proc filter and the cluster that Envoy needs for a configuration and its mode."""
    config = Config.load(file)
    try:
        target = _target(config, processor)
        written = attached(config, Guard.open(config), target, cluster)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    typer.echo(HEAD.format(mode=config.mode), nl=False)
    typer.echo(yaml.safe_dump(written, sort_keys=False, width=120), nl=False)


def _target(config: Config, processor: str) -> Address:
    if processor:
        host, colon, port = processor.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise ValueError(f"--processor: expected HOST:PORT, not '{processor}'")
        return Address(host.strip("[]"), int(port))
    listen = config.ext_proc or Address()
    return Address("127.0.0.1", listen.port) if listen.host in ("0.0.0.0", "::") else listen
