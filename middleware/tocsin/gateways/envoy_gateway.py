"""Envoy Gateway: an EnvoyExtensionPolicy, gateway.envoyproxy.io/v1alpha1.

What its API leaves out: attributes that are headers of the request, so that these come as request headers; trailers but
under FullDuplexStreamed; failOpen with FullDuplexStreamed. Its buffer is 32 KiB unless a ClientTrafficPolicy says more.
"""

from __future__ import annotations

from tocsin.configuration.config import Config
from tocsin.ext_proc.attach import MOST_EXCHANGES
from tocsin.gateways.modes import Document, Written, camel, wanted
from tocsin.gateways.placement import Placement, milliseconds
from tocsin.judgement.guard import Guard

GROUP = "gateway.envoyproxy.io"


def envoy_gateway(config: Config, guard: Guard, placement: Placement) -> Written:
    """The policy, and what goes with it. Raises ValueError where the API cannot express the configuration."""
    modes = wanted(config, guard)
    needs, notes = modes.needs, list[str]()
    has_grpc = any(not method.is_http for method in needs.methods)
    body, fails_open = modes.response_body, modes.fails_open
    if has_grpc and needs.mode != "observe" and body != "FULL_DUPLEX_STREAMED":
        body = "FULL_DUPLEX_STREAMED"  # the only mode with trailers, which carry the verdict of gRPC
    if body == "FULL_DUPLEX_STREAMED" and fails_open:
        fails_open = False
        notes.append(
            "failOpen cannot be true with FullDuplexStreamed, which this mode needs: responses fail while Tocsin is "
            "away. Run two processors at least"
        )
    processing: Document = {"response": {"body": camel(body)}}
    if modes.request_headers or needs.keys:
        processing["request"] = {} if modes.request_body == "NONE" else {"body": camel(modes.request_body)}
    else:
        processing["response"]["attributes"] = ["request.path", "request.method"]
    ext_proc: Document = {
        "backendRefs": [placement.backend_ref()],
        "backendSettings": {
            "circuitBreaker": {"maxParallelRequests": MOST_EXCHANGES, "maxPendingRequests": MOST_EXCHANGES}
        },
        "failOpen": fails_open,
        "processingMode": processing,
    }
    if modes.observes:
        ext_proc["shadowMode"] = True
    else:
        ext_proc["messageTimeout"] = milliseconds(modes.seconds)
    if needs.namespace and not modes.observes:
        ext_proc["metadata"] = {"writableNamespaces": [needs.namespace]}
    documents: list[Document] = [
        {
            "apiVersion": f"{GROUP}/v1alpha1",
            "kind": "EnvoyExtensionPolicy",
            "metadata": placement.metadata(),
            "spec": {"targetRefs": [placement.target_ref()], "extProc": [ext_proc]},
        },
        *placement.grant(GROUP, "EnvoyExtensionPolicy"),
    ]
    if "BUFFERED" in (body, modes.request_body):
        if placement.target_kind == "Gateway":
            documents.append(_buffer(placement, needs.max_message))
        else:
            notes.append(
                f"bodies beyond the Gateway's buffer of 32 KiB fail: give its ClientTrafficPolicy "
                f"connection.bufferLimit {needs.max_message}"
            )
    if needs.has_tls:
        notes.append("Tocsin's port has TLS (ext_proc_tls): apply a BackendTLSPolicy for its Service too")
    return Written(documents, notes)


def _buffer(placement: Placement, size: int) -> Document:
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "ClientTrafficPolicy",
        "metadata": placement.metadata(),
        "spec": {"targetRefs": [placement.target_ref()], "connection": {"bufferLimit": str(size)}},
    }
