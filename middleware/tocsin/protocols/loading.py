"""The methods of the protocols that a configuration names, from presets, descriptors or reflection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tocsin.errors import ConfigError
from tocsin.protocols.descriptors import Pool, pool_of
from tocsin.protocols.method import Method
from tocsin.protocols.protocol import is_http, methods, preset, route_preset
from tocsin.protocols.settings import ProtocolConfig


def methods_of(
    name: str, configured: Mapping[str, ProtocolConfig], open_upstream: Callable[[], Any]
) -> dict[str, Method]:
    """The methods of a protocol by name: a configured one, else a preset. `open_upstream` opens a channel to the model
    server, which is asked where descriptors are read by reflection.

    Raises ConfigError naming the protocol, the method, and what does not fit.
    """
    if name not in configured:
        return route_preset(name) if is_http(name) else preset(name)
    config = configured[name]
    try:
        return methods(config, lambda: _descriptors(config, open_upstream))
    except ValueError as error:
        raise ConfigError(f"protocols.{name}: {error}") from None


def _descriptors(config: ProtocolConfig, open_upstream: Callable[[], Any]) -> Pool:
    """The message types of a protocol, from its file or by reflection. Raises ValueError."""
    if config.reflection:
        from tocsin.protocols.reflection import reflected_pool  # by grpcio, which nothing else needs that guards HTTP

        services = {method.removeprefix("/").partition("/")[0] for method in config.methods}
        with open_upstream() as channel:
            return reflected_pool(channel, sorted(services))
    if not config.descriptors:
        raise ValueError("descriptors: is required: a descriptor set, or `reflection: true`")
    path = Path(config.descriptors)
    try:
        return pool_of(path.read_bytes())
    except OSError as error:
        raise ValueError(f"descriptors: {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"descriptors: {path}: {error}") from None
