"""Istio: an EnvoyFilter, networking.istio.io/v1alpha3, that adds Envoy's own filter and cluster to a gateway."""

from __future__ import annotations

from typing import Any

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.ext_proc.attach import ext_proc_filter, processor_cluster
from tocsin.gateways.modes import Document, Written, wanted
from tocsin.gateways.placement import Placement
from tocsin.judgement.guard import Guard

MANAGER = "envoy.filters.network.http_connection_manager"


def istio(config: Config, guard: Guard, placement: Placement) -> Written:
    """The filter for a gateway of Istio's. Raises ValueError where the configuration serves none."""
    modes = wanted(config, guard)
    if placement.target_kind != "Gateway":
        raise ValueError(
            f"--target: an EnvoyFilter changes a whole gateway, not a route ({placement.target_kind}): name a "
            "Gateway/NAME; routes that no model guards pass as they are"
        )
    host = f"{placement.host}.cluster.local" if placement.service_namespace else ""
    if not host:
        raise ValueError("--processor: Istio wants the namespace too: SERVICE.NAMESPACE:PORT")
    cluster = processor_cluster(config, Address(host, placement.port), placement.name)
    patches: list[dict[str, Any]] = [
        {
            "applyTo": "HTTP_FILTER",
            "match": {
                "context": "GATEWAY",
                "listener": {
                    "filterChain": {"filter": {"name": MANAGER, "subFilter": {"name": "envoy.filters.http.router"}}}
                },
            },
            "patch": {"operation": "INSERT_BEFORE", "value": ext_proc_filter(config, guard, placement.name)},
        },
        {
            "applyTo": "CLUSTER",
            "match": {"context": "GATEWAY"},
            "patch": {"operation": "ADD", "value": cluster},
        },
    ]
    if "BUFFERED" in (modes.response_body, modes.request_body):
        limit = {"per_connection_buffer_limit_bytes": modes.needs.max_message}
        patches.append(
            {
                "applyTo": "LISTENER",
                "match": {"context": "GATEWAY"},
                "patch": {"operation": "MERGE", "value": limit},
            }
        )
    spec: Document = {"targetRefs": [placement.target_ref()], "configPatches": patches}
    document = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": placement.metadata(),
        "spec": spec,
    }
    notes = ["replace the names of files in transport_socket"] if modes.needs.has_tls else []
    return Written([document], notes)
