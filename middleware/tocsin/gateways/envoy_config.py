"""Envoy's listeners, routes, filters and clusters, out of a bootstrap file or of `/config_dump` of its admin port."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tocsin.errors import ConfigError
from tocsin.gateways.document import Block, at, block, blocks

MANAGER = "http_connection_manager.v3.HttpConnectionManager"
TCP = "tcp_proxy.v3.TcpProxy"


@dataclass(frozen=True)
class EnvoyRoute:
    """A route that forwards: what it matches, its action, and what levels say of filters, the least specific first."""

    name: str
    match: Block
    action: Block
    levels: tuple[Block, ...]
    clusters: tuple[str, ...]


@dataclass(frozen=True)
class Manager:
    """An HTTP connection manager of a listener. `unseen` says why its routes are not known."""

    listener: str
    settings: Block
    filters: tuple[Block, ...]
    routes: tuple[EnvoyRoute, ...]
    buffer_limit: int
    limit_line: int
    unseen: str = ""


@dataclass
class EnvoyConfig:
    """What an Envoy is configured to do. `tcp` has the clusters that each listener forwards to without reading."""

    managers: list[Manager] = field(default_factory=list)
    tcp: list[tuple[str, str, int]] = field(default_factory=list)
    clusters: dict[str, Block] = field(default_factory=dict)


DEFAULT_BUFFER = 1 << 20


def envoy_config(root: Block, name: str) -> EnvoyConfig:
    """The configuration in a file. Raises ConfigError where the file has none."""
    listeners: list[Block] = []
    clusters: list[Block] = []
    route_configs: list[Block] = []
    discovered: dict[str, Block] = {}
    if "configs" in root:
        for part in blocks(root["configs"]):
            listeners += _of_dump(part, "listener")
            clusters += _of_dump(part, "cluster")
            route_configs += _of_dump(part, "route_config")
            for entry in blocks(part.get("ecds_filters")):
                ecds = block(entry.get("ecds_filter"))
                discovered[str(ecds.get("name"))] = block(ecds.get("typed_config"))
    elif "static_resources" in root:
        static = block(root["static_resources"])
        listeners, clusters = list(blocks(static.get("listeners"))), list(blocks(static.get("clusters")))
    else:
        raise ConfigError(
            f"{name}: has neither static_resources, as Envoy's bootstrap has, nor configs, as /config_dump of its "
            "admin port has"
        )
    envoy = EnvoyConfig(clusters={str(cluster.get("name")): cluster for cluster in clusters})
    by_name = {str(config.get("name")): config for config in route_configs}
    for number, listener in enumerate(listeners):
        _add_listener(envoy, listener, f"listener {listener.get('name') or number}", by_name, discovered)
    return envoy


def _of_dump(part: Block, kind: str) -> list[Block]:
    """The resources of a kind in a part of /config_dump; of listeners, those that are active."""
    resources: list[Block] = []
    for group in (f"static_{kind}s", f"dynamic_{kind}s", f"dynamic_active_{kind}s"):
        for entry in blocks(part.get(group)):
            resource = at(entry, kind) or at(entry, "active_state", kind)
            if isinstance(resource, Block):
                resources.append(resource)
    return resources


def _add_listener(
    envoy: EnvoyConfig, listener: Block, name: str, route_configs: dict[str, Block], discovered: dict[str, Block]
) -> None:
    """Add what a listener's filter chains hold: connection managers, and proxies of TCP."""
    limit = listener.get("per_connection_buffer_limit_bytes")
    chains = [*blocks(listener.get("filter_chains"))]
    if isinstance(listener.get("default_filter_chain"), Block):
        chains.append(listener["default_filter_chain"])
    for chain in chains:
        for filter_ in blocks(chain.get("filters")):
            settings = block(filter_.get("typed_config"))
            kind = str(settings.get("@type", ""))
            if kind.endswith(TCP):
                for cluster in _clusters(settings):
                    envoy.tcp.append((name, cluster, filter_.line))
            elif kind.endswith(MANAGER):
                routes, unseen = _routes(settings, route_configs)
                envoy.managers.append(
                    Manager(
                        name,
                        settings,
                        tuple(_filters(settings, discovered)),
                        tuple(routes),
                        int(limit) if isinstance(limit, int) else DEFAULT_BUFFER,
                        listener.line_of("per_connection_buffer_limit_bytes"),
                        unseen,
                    )
                )


def _filters(settings: Block, discovered: dict[str, Block]) -> Iterator[Block]:
    """The manager's filters; what was fetched for one takes the place of where it comes from."""
    for filter_ in blocks(settings.get("http_filters")):
        if "config_discovery" in filter_ and str(filter_.get("name")) in discovered:
            filter_["typed_config"] = discovered[str(filter_.get("name"))]
            filter_.lines["typed_config"] = filter_.line_of("config_discovery")
        yield filter_


def _routes(settings: Block, route_configs: dict[str, Block]) -> tuple[list[EnvoyRoute], str]:
    """The routes of a connection manager, and why some of them cannot be read here ("" where all can)."""
    if isinstance(settings.get("route_config"), Block):
        config = block(settings["route_config"])
    elif "rds" in settings:
        name = str(at(settings, "rds", "route_config_name"))
        if name not in route_configs:
            return [], f"its routes ({name}) come from elsewhere: check /config_dump of Envoy's admin port"
        config = route_configs[name]
    else:
        return [], "its routes are scoped, which is not read here: check them by hand"
    if "vhds" in config:
        return [], "its virtual hosts come from elsewhere (vhds), which is not read here: check them by hand"
    routes = []
    for host in blocks(config.get("virtual_hosts")):
        for number, route in enumerate(blocks(host.get("routes"))):
            if not isinstance(route.get("route"), Block):
                continue  # a redirect, or a reply of Envoy's own: no model answers
            levels = tuple(block(level.get("typed_per_filter_config")) for level in (config, host, route))
            name, action = f"route {host.get('name')}/{route.get('name') or number}", route["route"]
            weighted = list(blocks(at(action, "weighted_clusters", "clusters")))
            for cluster in weighted:
                more = block(cluster.get("typed_per_filter_config"))
                clusters = (str(cluster.get("name")),)
                routes.append(EnvoyRoute(name, block(route.get("match")), action, (*levels, more), clusters))
            if not weighted:
                routes.append(EnvoyRoute(name, block(route.get("match")), action, levels, tuple(_clusters(action))))
    return routes, ""


def _clusters(settings: Block) -> list[str]:
    named = [str(settings["cluster"])] if "cluster" in settings else []
    return named + [str(cluster.get("name")) for cluster in blocks(at(settings, "weighted_clusters", "clusters"))]
