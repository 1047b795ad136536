"""An Envoy's configuration held against Tocsin's: which responses would pass it unjudged, and the lines to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tocsin.ext_proc.attach import MOST_EXCHANGES
from tocsin.gateways.document import Block, at, block, blocks
from tocsin.gateways.envoy_config import EnvoyConfig, EnvoyRoute, Manager
from tocsin.gateways.filter_faults import Filter, filter_faults
from tocsin.gateways.findings import Effect, EnvoyFault
from tocsin.gateways.needs import Needs, ReachableMethod
from tocsin.gateways.route_matching import Reached, reached

EXT_PROC = "ext_proc.v3.ExternalProcessor"
ROUTER = "router.v3.Router"
DEFAULT_EXCHANGES = 1024  # of a cluster's circuit breaker
# Filters that change what gRPC looks like: nearer to the model than Tocsin, they leave it what is no gRPC any more.
TRANSCODERS = {
    "grpc_json_transcoder.v3.GrpcJsonTranscoder": "JSON",
    "grpc_web.v3.GrpcWeb": "gRPC-Web",
    "grpc_http1_bridge.v3.Config": "gRPC over HTTP/1.1",
    "grpc_http1_reverse_bridge.v3.FilterConfig": "HTTP/1.1",
    "connect_grpc_bridge.v3.FilterConfig": "Connect",
}
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def check_envoy(config: EnvoyConfig, needs: Needs, cluster: str) -> list[EnvoyFault]:
    """Everything that does not fit, the worst first, each once. `cluster` is the processor's name in Envoy."""
    findings: list[EnvoyFault] = []
    models: set[str] = set()
    used: dict[str, tuple[Filter, int]] = {}
    reaches_any = False
    for manager in config.managers:
        if manager.unseen:
            findings.append(EnvoyFault(Effect.UNSEEN, manager.listener, manager.settings.line, manager.unseen, ""))
        for route, methods in _by_route(reached(manager.routes, needs.methods)):
            reaches_any = True
            models.update(route.clusters)
            where = f"{manager.listener}, {route.name}"
            position, entry = _processor_filter(manager, config, needs, cluster)
            if entry is None:
                findings.append(_lacking(manager, where, config))
                continue
            yielded = _of_route(manager, route, position, entry, methods, needs, where, used, config, cluster)
            findings += list(yielded)
    for name, (filter_, line) in used.items():
        findings += list(_of_cluster(config, name, filter_, line, needs))
    for listener, target, line in config.tcp:
        if target in models:
            wrong = f"connections to {target} pass as bytes (tcp_proxy), past every filter"
            findings.append(EnvoyFault(Effect.PASSES, listener, line, wrong, "an http_connection_manager in its place"))
    if not reaches_any and not any(manager.unseen for manager in config.managers):
        wrong = "no route reaches a guarded method: " + ", ".join(method.name for method in needs.methods[:4])
        findings.append(
            EnvoyFault(Effect.UNSEEN, "routes", 0, wrong, "the file of the Envoy that is before the models")
        )
    order = list(Effect)
    return sorted(dict.fromkeys(findings), key=lambda finding: (order.index(finding.effect), finding.line))


def _by_route(reaches: Iterator[Reached]) -> Iterator[tuple[EnvoyRoute, list[Reached]]]:
    routes: dict[int, tuple[EnvoyRoute, list[Reached]]] = {}
    for reach in reaches:
        routes.setdefault(id(reach.route), (reach.route, []))[1].append(reach)
    yield from routes.values()


def _of_route(
    manager: Manager,
    route: EnvoyRoute,
    position: int,
    entry: Block,
    reached_here: Sequence[Reached],
    needs: Needs,
    where: str,
    used: dict[str, tuple[Filter, int]],
    config: EnvoyConfig,
    cluster: str,
) -> Iterator[EnvoyFault]:
    """Everything about one route that reaches guarded methods."""
    methods = list({reach.method.name: reach.method for reach in reached_here}.values())
    name = str(entry.get("name"))
    levels = [(level, block(level.get(name))) for level in route.levels if name in level]
    is_disabled, line = entry.get("disabled") is True, entry.line_of("disabled")
    overrides: list[Block] = []
    for level, settings in levels:
        line, is_disabled = level.line_of(name), _disables(settings)
        inner = block(settings.get("config")) if str(settings.get("@type", "")).endswith("FilterConfig") else settings
        overrides.append(block(inner.get("overrides")))
    if is_disabled:
        wrong = "the filter is disabled for this route" if levels else "the filter is disabled, and no route enables it"
        yield EnvoyFault(Effect.PASSES, where, line, wrong, "no `disabled: true`")
        return
    filter_ = Filter(block(entry.get("typed_config")), overrides, where)
    target = _target(filter_.get("grpc_service"))
    if overrides and target and not _is_processor(target, config, needs, cluster):
        wrong = f"this route asks another processor ({target})"
        yield filter_.finding(Effect.PASSES, "grpc_service", wrong, "no grpc_service among the overrides")
        return
    if target:
        used.setdefault(target, (filter_, filter_.line_of("grpc_service")))
    yield from filter_faults(filter_, needs, methods)
    yield from _rewriting(filter_, reached_here, needs)
    yield from _between(manager, position, methods, where)
    yield from _too_large(manager, filter_, needs)
    if any(str(at(earlier, "typed_config", "@type") or "").endswith(ROUTER) for earlier in manager.filters[:position]):
        wrong = "the filter stands behind the router, which must be the last: Envoy does not start"
        change = "the filter before envoy.filters.http.router"
        yield EnvoyFault(Effect.FAILS, where, entry.line_of("name"), wrong, change)


def _too_large(manager: Manager, filter_: Filter, needs: Needs) -> Iterator[EnvoyFault]:
    """What Tocsin would read, and Envoy does not buffer for it."""
    refusals = [
        f"{status} to {messages}"
        for status, messages, mode in (
            (413, "requests", filter_.request_body),
            (500, "responses", filter_.response_body),
        )
        if mode == "BUFFERED"
    ]
    if refusals and not filter_.observes and manager.buffer_limit < needs.max_message:
        wrong = (
            f"Envoy answers {' and '.join(refusals)} of more than {manager.buffer_limit:,} bytes (BUFFERED, "
            f"per_connection_buffer_limit_bytes); max_message is {needs.max_message:,}"
        )
        change = f"per_connection_buffer_limit_bytes: {needs.max_message}"
        yield EnvoyFault(Effect.FAILS, manager.listener, manager.limit_line, wrong, change)


def _processor_filter(manager: Manager, config: EnvoyConfig, needs: Needs, cluster: str) -> tuple[int, Block | None]:
    """The filter that asks Tocsin, and its place: by its cluster's name, or the port of that."""
    for position, filter_ in enumerate(manager.filters):
        settings = block(filter_.get("typed_config"))
        if not str(settings.get("@type", "")).endswith(EXT_PROC):
            continue
        if _is_processor(_target(settings.get("grpc_service")), config, needs, cluster):
            return position, filter_
    return 0, None


def _is_processor(target: str, config: EnvoyConfig, needs: Needs, cluster: str) -> bool:
    if target == cluster:
        return True
    if target not in config.clusters:
        return bool(needs.port) and target.endswith(f":{needs.port}")  # of google_grpc
    return bool(needs.port) and needs.port in _ports(config.clusters[target])


def _target(service: object) -> str:
    """The cluster, or address, that a grpc_service names."""
    named = at(service, "envoy_grpc", "cluster_name") or at(service, "google_grpc", "target_uri")
    return str(named) if named else ""


def _ports(cluster: Block) -> set[int]:
    ports = set()
    for locality in blocks(at(cluster, "load_assignment", "endpoints")):
        for endpoint in blocks(locality.get("lb_endpoints")):
            port = at(endpoint, "endpoint", "address", "socket_address", "port_value")
            if isinstance(port, int):
                ports.add(port)
    return ports


def _lacking(manager: Manager, where: str, config: EnvoyConfig) -> EnvoyFault:
    """The fault of a connection manager without a filter that asks Tocsin."""
    others, hidden = [], False
    for filter_ in manager.filters:
        kind = str(at(filter_, "typed_config", "@type") or "")
        if kind.endswith(EXT_PROC):
            others.append(_target(at(filter_, "typed_config", "grpc_service")))
        hidden = (
            hidden
            or kind.endswith("ExtensionWithMatcher")
            or ("typed_config" not in filter_ and "config_discovery" in filter_)
        )
    line = manager.settings.line_of("http_filters")
    change = "the filter that `tocsin attach` prints, before envoy.filters.http.router"
    if others:
        wrong = f"no filter asks Tocsin (ext_proc filters ask {', '.join(others)}: name its cluster by --cluster)"
    elif hidden:
        wrong = "a filter is chosen by a matcher, or fetched from elsewhere, and not shown here"
        return EnvoyFault(Effect.UNSEEN, where, line, wrong, "the filter itself in http_filters")
    else:
        wrong = "no filter asks Tocsin"
    return EnvoyFault(Effect.PASSES, where, line, wrong, change)


def _disables(settings: Block) -> bool:
    inner = block(settings.get("config"))
    return settings.get("disabled") is True or inner.get("disabled") is True


def _rewriting(filter_: Filter, reached_here: Sequence[Reached], needs: Needs) -> Iterator[EnvoyFault]:
    """Paths that are rewritten: request headers come with the path as it was sent, attributes with it as it went on."""
    for reach in reached_here:
        visible = reach.sent if filter_.sends_request_headers else reach.forwarded
        if needs.guards(visible) and not reach.is_guess:
            continue
        if reach.is_guess and not filter_.sends_request_headers:
            continue
        key = "regex_rewrite" if reach.is_guess else "prefix_rewrite"
        effect = Effect.MAY_PASS if reach.is_guess else Effect.PASSES
        wrong = f"{reach.sent} is rewritten to {reach.forwarded} ({key}), and Tocsin sees it before that"
        change = "a route of your own for the path as it is sent" + (
            ""
            if needs.needs_request_headers
            else ", or request_header_mode: SKIP with response_attributes [request.path]"
        )
        yield EnvoyFault(effect, filter_.where, reach.route.action.line_of(key), wrong, change)


def _between(manager: Manager, position: int, methods: Sequence[ReachableMethod], where: str) -> Iterator[EnvoyFault]:
    """Filters nearer to the model, through which a response passes before Tocsin sees it."""
    has_grpc = any(not method.is_http for method in methods)
    for filter_ in manager.filters[position + 1 :]:
        settings = block(filter_.get("typed_config"))
        kind = str(settings.get("@type", ""))
        line = filter_.line_of("name")
        for transcoder, shape in TRANSCODERS.items():
            if kind.endswith(transcoder) and has_grpc:
                wrong = f"{filter_.get('name')} stands behind the filter, which then sees {shape} instead of gRPC"
                yield EnvoyFault(Effect.PASSES, where, line, wrong, "Tocsin's filter between it and the router")
        if kind.endswith("compressor.v3.Compressor"):
            library = str(at(settings, "compressor_library", "typed_config", "@type") or "")
            package = {"Brotli": "brotli", "Zstd": "zstandard"}.get(library.rpartition(".")[2])
            effect = Effect.MAY_PASS if package else Effect.NOTE
            wrong = "responses are compressed before Tocsin sees them" + (
                f", and are read only where the package {package} is installed" if package else ""
            )
            yield EnvoyFault(effect, where, line, wrong, "Tocsin's filter between the compressor and the router")


def _of_cluster(config: EnvoyConfig, name: str, filter_: Filter, line: int, needs: Needs) -> Iterator[EnvoyFault]:
    """The processor's cluster."""
    unanswered = filter_.when_unanswered
    down = Effect.PASSES if unanswered is Effect.MAY_PASS else unanswered
    cluster = config.clusters.get(name)
    where = f"cluster {name}"
    if cluster is None:
        if "google_grpc" not in block(filter_.get("grpc_service")):
            wrong = "there is no such cluster in this file"
            yield EnvoyFault(down, where, line, wrong, "the cluster that `tocsin attach` prints")
        return
    if not _speaks_http2(cluster):
        wrong = "Envoy speaks HTTP/1.1 to the processor, whose gRPC needs HTTP/2"
        change = (
            f"typed_extension_protocol_options: {_OPTIONS} with explicit_http_config: {{http2_protocol_options: {{}}}}"
        )
        yield EnvoyFault(down, where, cluster.line_of("typed_extension_protocol_options"), wrong, change)
    most, at_line = _most_requests(cluster)
    if most <= DEFAULT_EXCHANGES:
        wrong = f"Envoy has at most {most:,} exchanges with it under way (max_requests): others are not judged"
        change = f"circuit_breakers: {{thresholds: [{{max_requests: {MOST_EXCHANGES}}}]}}"
        yield EnvoyFault(unanswered, where, at_line, wrong, change)
    has_tls = isinstance(cluster.get("transport_socket"), Block)
    if has_tls != needs.has_tls:
        wrong = "Tocsin's port has TLS (ext_proc_tls)" if needs.has_tls else "Tocsin's port has no TLS (ext_proc_tls)"
        wrong += ", and Envoy comes " + ("with it" if has_tls else "without it")
        change = "the transport_socket that `tocsin attach` prints" if needs.has_tls else "no transport_socket"
        yield EnvoyFault(down, where, cluster.line_of("transport_socket"), wrong, change)


def _speaks_http2(cluster: Block) -> bool:
    options = block(at(cluster, "typed_extension_protocol_options", _OPTIONS))
    explicit = block(options.get("explicit_http_config"))
    return "http2_protocol_options" in explicit or "http2_protocol_options" in cluster or "auto_config" in options


def _most_requests(cluster: Block) -> tuple[int, int]:
    for threshold in blocks(at(cluster, "circuit_breakers", "thresholds")):
        if threshold.get("priority") in (None, "DEFAULT", 0):
            value = threshold.get("max_requests", DEFAULT_EXCHANGES)
            return (value if isinstance(value, int) else DEFAULT_EXCHANGES), threshold.line_of("max_requests")
    return DEFAULT_EXCHANGES, cluster.line_of("circuit_breakers")
