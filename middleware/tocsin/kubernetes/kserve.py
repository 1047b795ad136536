"""Pods that KServe writes: where their containers stand in an InferenceService or LLMInferenceService, and how callers
are led through a sidecar there.

KServe sends callers of an InferenceService to the container called transformer-container where there is one, and to the
port that it declares. Callers of an LLMInferenceService come by an inference pool to the port of its container `main`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tocsin.errors import ConfigError
from tocsin.kubernetes.sidecar import METRICS, Listening, SidecarContainer

Document = dict[str, Any]
GROUP = "serving.kserve.io/"
TRANSFORMER = "transformer-container"
PORTS = "tocsin/ports"  # an annotation: the ports that the model server's container declared
RUNTIME = (
    "spec.predictor.model leaves its container to a serving runtime, so that its port is not known here: name the "
    "container in spec.predictor.containers, or put the processor before it (tocsin attach --for)"
)
ELSEWHERE = (
    "the port of the container main comes from a base configuration: name its `ports` and its `--port` in "
    "spec.template.containers, or put the processor before its route (tocsin attach --for)"
)


def is_kserve(document: Document) -> bool:
    """Whether KServe writes a document's pods."""
    kinds = ("InferenceService", "LLMInferenceService")
    return document.get("kind") in kinds and str(document.get("apiVersion", "")).startswith(GROUP)


def kserve_pod(document: Document) -> Document:
    """The pod within, with the labels and annotations that KServe gives it. Raises ConfigError where it has none."""
    holder, spec = _parts(document)
    if not spec.get("containers"):
        reason = RUNTIME if document["kind"] == "InferenceService" else ELSEWHERE
        raise ConfigError(f"{_called(document)}: {reason}")
    return {
        "metadata": {"labels": holder.get("labels") or {}, "annotations": holder.get("annotations") or {}},
        "spec": spec,
    }


def write_annotations(document: Document, pod: Document) -> None:
    """Put a pod's annotations where KServe reads them."""
    holder, _ = _parts(document)
    holder["annotations"] = pod["metadata"]["annotations"]


def restore_ports(document: Document, pod: Document) -> None:
    """Undo what an earlier time has done to the predictor of an InferenceService."""
    if document["kind"] != "InferenceService":
        return
    spec = pod["spec"]
    port_texts = str(pod["metadata"]["annotations"].pop(PORTS, ""))
    if not port_texts:
        return
    spec["containers"] = [entry for entry in spec["containers"] if entry.get("name") != TRANSFORMER]
    for part in port_texts.split(","):
        container, name, port = part.split("/")
        for entry in spec["containers"]:
            if entry.get("name") == container:
                declared = {**({"name": name} if name else {}), "containerPort": int(port), "protocol": "TCP"}
                entry.setdefault("ports", []).append(declared)


def put_into_predictor(
    document: Document, pod: Document, sidecar: SidecarContainer, served: Sequence[Listening]
) -> None:
    """Make the sidecar the container that KServe sends callers to."""
    spec = pod["spec"]
    if len(served) > 1:
        raise ConfigError(f"{_called(document)}: KServe leads callers to one port: leave `listeners` out")
    if any(entry.get("name") == TRANSFORMER for entry in spec["containers"]):
        raise ConfigError(f"{_called(document)}: has a {TRANSFORMER} already, whose place the relay would take")
    declared_ports, name = [], ""
    for entry in spec["containers"]:
        for port in entry.pop("ports", None) or []:
            declared_ports.append(f"{entry.get('name')}/{port.get('name', '')}/{port['containerPort']}")
            if port.get("containerPort") == served[0].upstream:
                name = str(port.get("name", ""))
    pod["metadata"]["annotations"][PORTS] = ",".join(declared_ports)
    container = sidecar.container()
    container.pop("restartPolicy", None)
    container["name"] = TRANSFORMER
    container["ports"] = [{"name": name or "h2c", "containerPort": served[0].port, "protocol": "TCP"}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        handler = container[probe]["httpGet"]
        handler["port"] = sidecar.metrics_port if handler["port"] == METRICS else handler["port"]
    spec["containers"] = [*spec["containers"], container]


def _parts(document: Document) -> tuple[Document, Document]:
    """What holds labels and annotations, and the pod's specification."""
    spec = document.get("spec") or {}
    if document["kind"] == "InferenceService":
        predictor = spec.get("predictor") or {}
        return predictor, predictor
    return spec, spec.get("template") or {}


def _called(document: Document) -> str:
    return f"{document.get('kind')} {(document.get('metadata') or {}).get('name', '')}"
