"""The parts of an Envoy configuration that put the external processor before a model: a filter and its cluster."""

from __future__ import annotations

from typing import Any

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.judgement.guard import Guard
from tocsin.protocols.http.method import JsonMethod

CLUSTER = "tocsin"
MOST_EXCHANGES = 100_000  # that Envoy may have under way: its default of 1,024 fails the others
CHUNK_SECONDS = 1.0  # that Envoy waits for a reply besides what acting may take; its default is 0.2
_TYPE = "type.googleapis.com/envoy"


def attached(config: Config, guard: Guard, target: Address, name: str = CLUSTER) -> dict[str, list[Any]]:
    """The filter to put before the router in `http_filters`, and the cluster to add to `clusters`. `target` is the
    address at which Envoy finds the processor. Raises ValueError where the configuration serves no processor.
    """
    if config.ext_proc is None:
        raise ValueError("ext_proc: is not set: say where Envoy's filter connects, such as 0.0.0.0:9002")
    return {
        "http_filters": [ext_proc_filter(config, guard, name)],
        "clusters": [processor_cluster(config, target, name)],
    }


def ext_proc_filter(config: Config, guard: Guard, name: str = CLUSTER) -> dict[str, Any]:
    """The filter for the configured mode and the guarded methods."""
    is_asking = any(model.edits for model in guard.models.values())  # requests are changed, and responses changed back
    observes, enforces = config.mode == "observe" and not is_asking, config.mode == "enforce"
    streams = any(method.streams for method in guard.methods.values())
    needs_body = guard.reads_requests
    is_http = any(isinstance(method, JsonMethod) for method in guard.methods.values())
    needs_headers = needs_body or (enforces and config.unguarded == "refuse")
    modes: dict[str, Any] = {"request_header_mode": "SEND" if needs_headers else "SKIP"}
    if needs_body:
        requests_stream = any(method.requests_stream for method in guard.methods.values())
        modes["request_body_mode"] = "STREAMED" if requests_stream else "BUFFERED"
    modes["response_header_mode"] = "SEND"
    waits = enforces or (is_http and not observes)  # a document's headers bring its verdict
    modes["response_body_mode"] = "STREAMED" if not waits else "FULL_DUPLEX_STREAMED" if streams else "BUFFERED"
    modes["response_trailer_mode"] = "SEND"
    settings: dict[str, Any] = {
        "@type": f"{_TYPE}.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": name}},
        "failure_mode_allow": not fails_closed(config),
    }
    if observes:
        settings["observability_mode"] = True
    else:
        settings["message_timeout"] = f"{reply_seconds(config):g}s"
    if not needs_headers:
        keys = [f"request.headers['{key}']" for key in guard.metadata_keys]
        settings["response_attributes"] = ["request.path", *(["request.method"] if is_http else []), *keys]
    if config.ext_proc_metadata and not observes:
        settings["metadata_options"] = {"receiving_namespaces": {"untyped": [config.ext_proc_metadata]}}
    settings["processing_mode"] = modes
    return {"name": "envoy.filters.http.ext_proc", "typed_config": settings}


def processor_cluster(config: Config, target: Address, name: str = CLUSTER) -> dict[str, Any]:
    """The cluster that the filter connects to, with circuit breakers that allow as many exchanges as configured."""
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    if target.path:
        address: dict[str, Any] = {"pipe": {"path": target.path}}
    else:
        address = {"socket_address": {"address": target.host, "port_value": target.port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC" if target.path or _is_number(target.host) else "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "circuit_breakers": {"thresholds": [{"max_requests": MOST_EXCHANGES, "max_pending_requests": MOST_EXCHANGES}]},
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }
    if config.ext_proc_tls is not None:
        context: dict[str, Any] = {"validation_context": {"trusted_ca": {"filename": "processor-ca.pem"}}}
        if config.ext_proc_tls.client_ca is not None:
            files = {"certificate_chain": {"filename": "envoy.pem"}, "private_key": {"filename": "envoy.key"}}
            context["tls_certificates"] = [files]
        kind = f"{_TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": kind, "common_tls_context": context, "sni": target.host},
        }
    return cluster


def fails_closed(config: Config) -> bool:
    """Whether responses that cannot be judged must not pass."""
    return config.mode == "enforce" and "closed" in {config.fail, *(model.fail for model in config.models.values())}


def reply_seconds(config: Config) -> float:
    """How many seconds Envoy has to wait for a reply: a margin, what acting on an alarm takes, and the scoring budget
    where that is not small against the margin.
    """
    budgets = [config.budget(name, shares_sessions=False).total_seconds() for name in config.models]
    budget = max(budgets, default=0.0)
    return CHUNK_SECONDS + acting_seconds(config) + (budget if budget >= CHUNK_SECONDS / 2 else 0.0)


def acting_seconds(config: Config) -> float:
    """How many seconds acting on an alarm may take for the slowest model: its tries and its fallback."""
    if config.mode != "enforce":
        return 0.0
    seconds = [0.0]
    for model in config.models.values():
        retry, fallback = model.retry, model.fallback
        seconds.append(
            (retry.most * retry.deadline.total_seconds() if retry is not None else 0.0)
            + (fallback.deadline.total_seconds() if fallback is not None else 0.0)
        )
    return max(seconds)


def _is_number(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
