"""Pods inside manifests: where each kind of workload has them, and what their containers say about ports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tocsin.errors import ConfigError
from tocsin.kubernetes.kserve import is_kserve, kserve_pod

POD_OF = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "Rollout": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}  # where the pod stands in each kind of workload
KSERVE = (
    "KServe makes pods of it for many services: put the relay into the InferenceService's spec.predictor.containers"
)
FOREIGN = {
    "ServingRuntime": KSERVE,
    "ClusterServingRuntime": KSERVE,
    "SeldonDeployment": "Seldon writes its pods: put a gateway before it, as examples/kubernetes/seldon.yaml does",
}  # kinds whose pods somebody else's controller makes, and what to do
PORT_OPTION = re.compile(r"-{1,2}[\w.-]*port", re.IGNORECASE)

Document = dict[str, Any]


def refuse_foreign(document: Document) -> None:
    """Raises ConfigError for kinds that make pods in a way of their own."""
    kind, version = str(document.get("kind")), str(document.get("apiVersion", ""))
    reason = FOREIGN.get(kind)
    if kind == "Service" and version.startswith("serving.knative.dev/"):
        reason = "Knative writes its pods: add the relay to spec.template by hand, and give its port the name h2c"
    if kind == "Rollout" and "workloadRef" in (document.get("spec") or {}):
        reason = "its pods are those of the workload in spec.workloadRef: inject that"
    if reason is not None:
        raise ConfigError(f"{title_of(document)}: {reason}. Leave it out of the manifests for tocsin inject")


def pod_of(document: Document) -> Document | None:
    """The pod, or the template of pods, of a workload; None where there is none."""
    if is_kserve(document):
        return kserve_pod(document)
    place = POD_OF.get(str(document.get("kind")))
    if place is None:
        return None
    pod = document
    for step in place:
        pod = pod.get(step) or {}
    return pod if (pod.get("spec") or {}).get("containers") else None


def title_of(document: Document) -> str:
    """Kind and name."""
    return f"{document.get('kind')} {(document.get('metadata') or {}).get('name', '')}"


def namespace_of(document: Document) -> str | None:
    namespace = (document.get("metadata") or {}).get("namespace")
    return None if namespace is None else str(namespace)


def labels_of(pod: Document) -> dict[str, str]:
    return dict((pod.get("metadata") or {}).get("labels") or {})


def annotate(pod: Document, key: str, value: str) -> None:
    """Set an annotation of a pod."""
    metadata = pod["metadata"] = pod.get("metadata") or {}
    annotations = metadata["annotations"] = metadata.get("annotations") or {}
    annotations[key] = value


def declared_ports(pod: Document, sidecar_name: str) -> Iterator[tuple[Document, Document]]:
    """Every port that a container declares, with the container; but those of the container `own`."""
    for kind in ("initContainers", "containers"):
        for container in pod["spec"].get(kind) or []:
            if container.get("name") != sidecar_name:
                for port in container.get("ports") or []:
                    yield container, port


def move_server_port(container: Document, old: int, new: int) -> bool:
    """Have the container's server listen on `new` instead of `old`, in place; whether its arguments or environment say
    where it listens, and nothing of it listens on `new`, so that it can be done.
    """
    ports = list(_named_ports(container))
    if str(old) not in (value for *_, value in ports) or str(new) in (value for *_, value in ports):
        return False
    for holder, key, prefix, value in ports:
        if value == str(old):
            holder[key] = f"{prefix}{new}"
    for port in container.get("ports") or []:
        if port.get("containerPort") == old:
            port["containerPort"] = new
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        for way in ("grpc", "httpGet", "tcpSocket"):
            handler = (container.get(probe) or {}).get(way) or {}
            if handler.get("port") == old:
                handler["port"] = new
    return True


def _named_ports(container: Document) -> Iterator[tuple[Any, Any, str, str]]:
    """Where a container's settings name a port: what holds the text, its key, the text before the port, the port."""
    for words in (container.get("command") or [], container.get("args") or []):
        for at, word in enumerate(words):
            option, equals, value = str(word).partition("=")
            if equals and PORT_OPTION.fullmatch(option):
                yield words, at, f"{option}=", value
            elif at and PORT_OPTION.fullmatch(str(words[at - 1])):
                yield words, at, "", str(word)
    for variable in container.get("env") or []:
        if "PORT" in str(variable.get("name", "")).upper():
            yield variable, "value", "", str(variable.get("value", ""))
