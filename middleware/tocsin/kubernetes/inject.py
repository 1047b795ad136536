"""Puts the sidecar into manifests: YAML in, YAML out, and what was done in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from tocsin.errors import ConfigError
from tocsin.kubernetes.sidecar import BUNDLES, CONFIG, NAME, PORT, Sidecar

POD_OF = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
}  # where the pod stands in each kind of workload

Document = dict[str, Any]


def inject(documents: Iterable[Document], sidecar: Sidecar) -> tuple[list[Document], list[str]]:
    """The documents with the sidecar in every pod whose containers have the upstream's port, Services of it pointed at
    the sidecar, and a ConfigMap behind; and what was done. Doing it again changes nothing more.

    Raises ConfigError when no workload is there that serves the upstream's port.
    """
    upstream = sidecar.config.upstream.port
    made, told, pods = [], [], []
    namespaces: dict[str | None, None] = {}
    for document in documents:
        if _is_own(document, sidecar):
            continue  # of an earlier time; it is written anew
        made.append(document)
        pod = _pod(document)
        if pod is None:
            continue
        names = _port_names(pod, upstream)
        if names is None:
            told.append(f"{_called(document)}: no container has the port {upstream}, so it is left as it is")
            continue
        pods.append((_labels(document), names))
        namespaces[document.get("metadata", {}).get("namespace")] = None
        _put_in(document, pod, sidecar)
        told.append(f"{_called(document)}: {NAME} stands in front of port {upstream}")
    if not pods:
        raise ConfigError(
            f"there is no workload with a container port {upstream}, where the configuration says the model server "
            f"listens (upstream); name the port in the container's `ports`"
        )
    for document in made:
        if document.get("kind") == "Service":
            told += _pointed(document, pods, upstream)
    return [*made, *(sidecar.configuration(namespace) for namespace in namespaces)], told


def _put_in(document: Document, pod: Document, sidecar: Sidecar) -> None:
    spec = pod["spec"]
    for kind in ("containers", "initContainers"):
        if kind in spec:
            spec[kind] = [one for one in spec[kind] if one.get("name") != NAME]
    if sidecar.native:
        spec["initContainers"] = [*spec.get("initContainers", []), sidecar.container()]
    else:
        spec["containers"] = [*spec["containers"], sidecar.container()]
    if not spec.get("initContainers", True):
        del spec["initContainers"]
    kept = [volume for volume in spec.get("volumes", []) if volume.get("name") not in (CONFIG, BUNDLES)]
    spec["volumes"] = [*kept, *sidecar.volumes()]
    drain = int(sidecar.config.drain.total_seconds()) + 15
    spec["terminationGracePeriodSeconds"] = max(spec.get("terminationGracePeriodSeconds", 30), drain)
    annotations = pod.setdefault("metadata", {}).setdefault("annotations", {})
    annotations["tocsin/config"] = _digest(sidecar)  # new pods when it changes


def _pointed(service: Document, pods: Iterable[tuple[dict[str, str], set[str]]], upstream: int) -> list[str]:
    """Point a Service's ports that lead to the model server at the sidecar."""
    selector = service.get("spec", {}).get("selector") or {}
    names = set().union(*(found for labels, found in pods if selector and selector.items() <= labels.items()))
    told = []
    for port in service.get("spec", {}).get("ports", []):
        target = port.get("targetPort", port.get("port"))
        if names and (target == upstream or target in names):
            port["targetPort"] = PORT
            told.append(f"{_called(service)}: port {port.get('port')} leads to {NAME}")
    return told


def _pod(document: Document) -> Document | None:
    place = POD_OF.get(str(document.get("kind")))
    if place is None:
        return None
    pod = document
    for step in place:
        pod = pod.get(step) or {}
    return pod if (pod.get("spec") or {}).get("containers") else None


def _port_names(pod: Document, upstream: int) -> set[str] | None:
    """The names of the model server's port, None where no container has it."""
    ports = [port for one in pod["spec"]["containers"] if one.get("name") != NAME for port in one.get("ports", [])]
    found = [port for port in ports if port.get("containerPort") == upstream]
    return {str(port["name"]) for port in found if "name" in port} | {""} if found else None


def _labels(document: Document) -> dict[str, str]:
    pod = _pod(document) or {}
    return dict((pod.get("metadata") or {}).get("labels") or {})


def _is_own(document: Document, sidecar: Sidecar) -> bool:
    return document.get("kind") == "ConfigMap" and document.get("metadata", {}).get("name") == sidecar.config_map


def _digest(sidecar: Sidecar) -> str:
    return hashlib.sha256(json.dumps(dict(sidecar.settings), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _called(document: Document) -> str:
    return f"{document.get('kind')} {document.get('metadata', {}).get('name', '')}"
