"""What the resources of gateways may hold, as far as Tocsin writes them: a field that is not listed here is refused.

Written down from the CustomResourceDefinitions of Envoy Gateway (gateway.envoyproxy.io/v1alpha1), Istio
(networking.istio.io/v1alpha3), agentgateway (agentgateway.dev/v1alpha1), GKE (networking.gke.io/v1) and the Gateway
API, as of the summer of 2026, with the rules across fields that they state in CEL.
"""

from __future__ import annotations

from typing import Any

import jsonschema

Schema = dict[str, Any]


def holds(required: str = "", **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def several(item: Schema, most: int = 16) -> Schema:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 253}
FLAG: Schema = {"type": "boolean"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 4294967295}
DURATION: Schema = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
QUANTITY: Schema = {"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi)?$"}
ANYTHING: Schema = {"type": "object"}
TARGETS = several(holds("group kind name", group=TEXT, kind=TEXT, name=TEXT))
BACKEND = holds("name port", group={"type": "string"}, kind=TEXT, name=TEXT, namespace=TEXT, port=PORT)

ATTRIBUTE: Schema = {
    "type": "string",
    "pattern": r"^(connection\.|source\.|destination\.|request\.|response\.|upstream\.|xds\.route_)[a-z_1-9]*$",
}
_BODY = one_of("Streamed", "Buffered", "BufferedPartial", "FullDuplexStreamed")
_PHASE = holds(attributes=several(ATTRIBUTE), body=_BODY)
_EXT_PROC = holds(
    "backendRefs",
    backendRefs=several(BACKEND),
    backendSettings=holds(circuitBreaker=holds(maxParallelRequests=COUNT, maxPendingRequests=COUNT)),
    failOpen=FLAG,
    messageTimeout=DURATION,
    metadata=holds(writableNamespaces=several(TEXT, 8)),
    processingMode=holds(request=_PHASE, response=_PHASE),
    shadowMode=FLAG,
)

_PATCH = holds(
    "applyTo patch",
    applyTo=one_of("LISTENER", "HTTP_FILTER", "CLUSTER"),
    match=holds(context=one_of("ANY", "GATEWAY"), listener=holds(filterChain=ANYTHING)),
    patch=holds(operation=one_of("MERGE", "ADD", "INSERT_BEFORE"), value=ANYTHING),
)

_MODE = one_of("None", "Buffered", "BufferedPartial", "FullDuplexStreamed")
_SENT = one_of("Send", "Skip")
_OPTIONS = holds(
    requestBodyMode=_MODE, responseBodyMode=_MODE, requestHeaderMode=_SENT, responseHeaderMode=_SENT,
    requestTrailerMode=_SENT, responseTrailerMode=_SENT, allowModeOverride=FLAG,
)  # fmt: skip
_AGENT = holds(
    "backendRef", backendRef=BACKEND, failureMode=one_of("FailOpen", "FailClosed"), processingOptions=_OPTIONS
)

_NAME_1034: Schema = {"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"}
_EVENT = one_of(
    "RequestHeaders", "RequestBody", "ResponseHeaders", "ResponseBody", "RequestTrailers", "ResponseTrailers"
)
_EXTENSION = holds(
    "name authority backendRef supportedEvents",
    name=_NAME_1034,
    authority={"type": "string", "pattern": r"^[A-Za-z0-9-_:%\.\[\]]*$", "minLength": 1},
    backendRef=holds("group kind name port", group=one_of(""), kind=one_of("Service"), name=TEXT, port=PORT),
    failOpen=FLAG,
    timeout=DURATION,
    observabilityMode=FLAG,
    supportedEvents=several(_EVENT, 6),
    requestBodySendMode=one_of("Streamed", "FullDuplexStreamed"),
    responseBodySendMode=one_of("Streamed", "FullDuplexStreamed"),
)
_CHAIN = holds(
    "name extensions",
    name=_NAME_1034,
    matchCondition=holds("celExpressions", celExpressions=several(holds("celMatcher", celMatcher=TEXT))),
    extensions=several(_EXTENSION, 3),
)

SPECS: dict[tuple[str, str], Schema] = {
    ("gateway.envoyproxy.io/v1alpha1", "EnvoyExtensionPolicy"): holds(
        "targetRefs extProc", targetRefs=TARGETS, extProc=several(_EXT_PROC)
    ),
    ("gateway.envoyproxy.io/v1alpha1", "ClientTrafficPolicy"): holds(
        "targetRefs", targetRefs=TARGETS, connection=holds(bufferLimit=QUANTITY)
    ),
    ("networking.istio.io/v1alpha3", "EnvoyFilter"): holds(
        "configPatches", targetRefs=TARGETS, configPatches=several(_PATCH)
    ),
    ("agentgateway.dev/v1alpha1", "AgentgatewayPolicy"): holds(
        "targetRefs traffic", targetRefs=TARGETS, traffic=holds("extProc", extProc=_AGENT)
    ),
    ("networking.gke.io/v1", "GCPTrafficExtension"): holds(
        "targetRefs extensionChains", targetRefs=TARGETS, extensionChains=several(_CHAIN, 5)
    ),
    ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"): holds(
        "from to",
        **{"from": several(holds("group kind namespace", group=TEXT, kind=TEXT, namespace=TEXT))},
        to=several(holds("group kind", group={"type": "string"}, kind=TEXT, name=TEXT)),
    ),
}


def validate(document: dict[str, Any]) -> None:
    """Fails where a cluster would refuse a document."""
    spec = SPECS[document["apiVersion"], document["kind"]]
    schema = holds("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=ANYTHING, spec=spec)
    jsonschema.validate(document, schema)
    if document["kind"] == "EnvoyExtensionPolicy":
        for ext_proc in document["spec"]["extProc"]:
            bodies = [phase.get("body") for phase in ext_proc["processingMode"].values()]
            assert not (ext_proc["failOpen"] and "FullDuplexStreamed" in bodies)
            assert not ext_proc.get("shadowMode") or set(bodies) <= {"Streamed", None}
    if document["kind"] == "GCPTrafficExtension":
        for chain in document["spec"]["extensionChains"]:
            for extension in chain["extensions"]:
                events = extension["supportedEvents"]
                if extension["responseBodySendMode"] == "FullDuplexStreamed":
                    assert {"ResponseBody", "ResponseTrailers"} <= set(events)
                if extension.get("observabilityMode"):
                    assert extension["responseBodySendMode"] == "Streamed"
