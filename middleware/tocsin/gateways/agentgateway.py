"""agentgateway: an AgentgatewayPolicy, agentgateway.dev/v1alpha1.

It streams bodies as FullDuplexStreamed alone, and has no mode without replies and no timeout of a message.
"""

from __future__ import annotations

from tocsin.configuration.config import Config
from tocsin.gateways.modes import Document, Written, camel, wanted
from tocsin.gateways.placement import Placement
from tocsin.judgement.guard import Guard

GROUP = "agentgateway.dev"


def agentgateway(config: Config, guard: Guard, placement: Placement) -> Written:
    """The policy. Raises ValueError where its API cannot express the configuration."""
    modes = wanted(config, guard)
    needs, notes = modes.needs, list[str]()
    if needs.namespace:
        raise ValueError("ext_proc_metadata: agentgateway's policy lets no dynamic metadata in: leave it out")
    if modes.observes:
        notes.append(
            "there is no mode without replies: Tocsin answers each part at once, and responses fail while it is away"
        )
    body = "FULL_DUPLEX_STREAMED" if modes.response_body == "STREAMED" else modes.response_body
    request_body = "FULL_DUPLEX_STREAMED" if modes.request_body == "STREAMED" else modes.request_body
    options: Document = {
        "requestHeaderMode": "Send",
        "requestBodyMode": camel(request_body),
        "requestTrailerMode": "Send" if request_body == "FULL_DUPLEX_STREAMED" else "Skip",
        "responseHeaderMode": "Send",
        "responseBodyMode": camel(body),
        "responseTrailerMode": "Send",
    }
    policy: Document = {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "AgentgatewayPolicy",
        "metadata": placement.metadata(),
        "spec": {
            "targetRefs": [placement.target_ref()],
            "traffic": {
                "extProc": {
                    "backendRef": placement.backend_ref(),
                    "failureMode": "FailOpen" if modes.fails_open else "FailClosed",
                    "processingOptions": options,
                }
            },
        },
    }
    if needs.has_tls:
        notes.append("Tocsin's port has TLS (ext_proc_tls): apply a BackendTLSPolicy for its Service too")
    return Written([policy, *placement.grant(GROUP, "AgentgatewayPolicy")], notes)
