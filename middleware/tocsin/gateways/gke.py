"""GKE: a GCPTrafficExtension, networking.gke.io/v1, by which a load balancer of Google Cloud asks the processor.

Its bodies are Streamed or FullDuplexStreamed, a message may take 10 s, and observabilityMode is for regional gateways.
"""

from __future__ import annotations

from tocsin.configuration.config import Config
from tocsin.gateways.modes import Document, Written, camel, wanted
from tocsin.gateways.placement import Placement, milliseconds
from tocsin.judgement.guard import Guard

LONGEST = 10.0  # seconds that a message may take


def gke(config: Config, guard: Guard, placement: Placement) -> Written:
    """The extension. Raises ValueError where its API cannot express the configuration."""
    modes = wanted(config, guard)
    needs, notes = modes.needs, list[str]()
    if needs.asks:
        raise ValueError("ask: changes requests, which takes them BUFFERED, and a GCPTrafficExtension has no such mode")
    if needs.namespace:
        raise ValueError("ext_proc_metadata: a GCPTrafficExtension lets no dynamic metadata in: leave it out")
    if modes.seconds > LONGEST:
        raise ValueError(
            f"a reply may take {modes.seconds:g}s (scoring_budget, retry, fallback), and a GCPTrafficExtension waits "
            f"{LONGEST:g}s at most: lower them"
        )
    if placement.target_kind != "Gateway":
        raise ValueError(f"--target: a GCPTrafficExtension is for a Gateway, not a {placement.target_kind}")
    if placement.is_elsewhere:
        raise ValueError("--processor: a GCPTrafficExtension names a Service of its own namespace")
    body = "FULL_DUPLEX_STREAMED" if modes.response_body == "BUFFERED" else modes.response_body
    request_body = "STREAMED" if modes.request_body == "BUFFERED" else modes.request_body
    events = ["RequestHeaders", "ResponseHeaders", "ResponseBody", "ResponseTrailers"]
    extension: Document = {
        "name": placement.name,
        "authority": placement.host,
        "backendRef": {"group": "", "kind": "Service", "name": placement.service, "port": placement.port},
        "failOpen": modes.fails_open,
        "timeout": milliseconds(modes.seconds),
        "supportedEvents": events,
        "responseBodySendMode": camel(body),
    }
    if request_body != "NONE":
        events.insert(1, "RequestBody")
        extension["requestBodySendMode"] = camel(request_body)
    if modes.observes:
        extension["observabilityMode"] = True
        notes.append("observabilityMode is for gateways of regional classes")
    if not needs.has_tls:
        notes.append("the load balancer speaks HTTP/2, with TLS unless the Service's appProtocol is kubernetes.io/h2c")
    chain = {
        "name": placement.name,
        "matchCondition": {"celExpressions": [{"celMatcher": 'request.path.startsWith("/")'}]},
        "extensions": [extension],
    }
    document = {
        "apiVersion": "networking.gke.io/v1",
        "kind": "GCPTrafficExtension",
        "metadata": placement.metadata(),
        "spec": {"targetRefs": [placement.target_ref()], "extensionChains": [chain]},
    }
    return Written([document], notes)
