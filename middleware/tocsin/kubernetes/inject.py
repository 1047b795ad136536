"""Adds the sidecar to manifests: YAML in, YAML out, and a list of the changes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from tocsin.errors import ConfigError
from tocsin.kubernetes.files import CONFIG_FILE
from tocsin.kubernetes.kserve import is_kserve, put_into_predictor, restore_ports, write_annotations
from tocsin.kubernetes.services import GuardedPods, headless_before, leads_to_sidecar, redirect_ports, shut_out
from tocsin.kubernetes.sidecar import NAME, VOLUMES, Listening, SidecarContainer
from tocsin.kubernetes.workloads import (
    Document,
    annotate,
    declared_ports,
    labels_of,
    move_server_port,
    namespace_of,
    pod_of,
    refuse_foreign,
    title_of,
)

DIGEST, MOVED = "tocsin/config", "tocsin/moved"  # annotations of pods


def inject(documents: Iterable[Document], sidecar: SidecarContainer) -> tuple[list[Document], list[str]]:
    """Add the sidecar to every pod whose containers have an upstream's port, point Services at it, and append
    ConfigMaps. Returns the documents and a list of the changes. Repeating it changes nothing more.

    Raises ConfigError when no workload serves an upstream's port, and for what could not start.
    """
    manifests = [copy.deepcopy(document) for document in documents]
    done = _Injected([], [], [], {})
    for document in manifests:
        refuse_foreign(document)
        pod = pod_of(document)
        if pod is not None:
            _inject_into(document, pod, manifests, sidecar, done)
    if not done.guarded:
        raise ConfigError(_nothing_found(manifests, sidecar))
    notes = [*done.notes, *_lead_callers(manifests, sidecar, done)]
    rest = [document for document in manifests if not _is_replaced(document, done.config_maps)]
    return [*rest, *done.config_maps.values()], list(dict.fromkeys(notes))


@dataclasses.dataclass
class _Injected:
    """What was done so far: changes in words, pods that have the sidecar, those of them whose Services KServe writes,
    and ConfigMaps by namespace and name.
    """

    notes: list[str]
    guarded: list[GuardedPods]
    of_kserve: list[GuardedPods]
    config_maps: dict[tuple[str | None, str], Document]


def _inject_into(
    document: Document, pod: Document, manifests: Sequence[Document], sidecar: SidecarContainer, done: _Injected
) -> None:
    """Add the sidecar to the pod of a workload, where one of its containers has an upstream's port."""
    if is_kserve(document):
        restore_ports(document, pod)
    _move_back(pod)
    served = [
        listening_port
        for listening_port in sidecar.listening
        if any(port.get("containerPort") == listening_port.upstream for _, port in declared_ports(pod, NAME))
    ]
    if not served:
        ports = ", ".join(str(listening_port.upstream) for listening_port in sidecar.listening)
        done.notes.append(f"{title_of(document)}: no container has the port {ports}, so it is left as it is")
        return
    if document.get("kind") in ("Job", "CronJob") and not sidecar.native:
        raise ConfigError(
            f"{title_of(document)}: a plain sidecar never ends, and so neither would it: leave --plain out"
        )
    _refuse_clashes(document, pod, sidecar)
    pods = _guarded(document, pod, sidecar.listening)
    if document.get("kind") == "LLMInferenceService":
        listening, moves = _before_pool(document, pod, served, sidecar)
    else:
        listening, moves = _before_headless(manifests, document, pod, pods, sidecar)
    pods = dataclasses.replace(pods, listening=listening)
    done.guarded.append(pods)
    if is_kserve(document):
        done.of_kserve.append(pods)
    configured = dataclasses.replace(
        sidecar.listening_on(listening), config_map=sidecar.config_map or _config_map(document)
    )
    configuration = configured.configuration(namespace_of(document))
    place = (namespace_of(document), configured.config_map)
    if done.config_maps.setdefault(place, configuration) != configuration:
        raise ConfigError(
            f"{title_of(document)}: another workload has the ConfigMap {configured.config_map}: leave out --config-map"
        )
    _put_in(document, pod, configured, served)
    done.notes += [
        f"{title_of(document)}: {NAME} stands in front of port {listening_port.upstream}" for listening_port in served
    ]
    done.notes += [*moves, *_advice(document, pod, sidecar, served)]


def _lead_callers(manifests: Sequence[Document], sidecar: SidecarContainer, done: _Injected) -> list[str]:
    """Point Services at the sidecars, and let network policies shut out what would go past them. Returns the changes,
    and a note of each port that no Service here leads to.
    """
    services = [document for document in manifests if document.get("kind") == "Service"]
    secure = {
        listening_port.name: listener.tls is not None
        for listening_port, listener in zip(sidecar.listening, sidecar.config.every_listener, strict=True)
    }
    notes = [note for service in services for note in redirect_ports(service, done.guarded, secure)]
    for pods in done.guarded:
        if pods in done.of_kserve:
            continue  # KServe writes their Services
        for document in manifests:
            notes += shut_out(document, pods) if document.get("kind") == "NetworkPolicy" else []
        for listening_port in pods.listening:
            if not any(leads_to_sidecar(service, pods, listening_port) for service in services):
                notes.append(
                    f"no Service here leads to {listening_port.name}: one elsewhere that leads to port "
                    f"{listening_port.upstream} goes past it"
                )
    return notes


def _guarded(document: Document, pod: Document, listening: Sequence[Listening]) -> GuardedPods:
    names: dict[int, set[str]] = {}
    for _, port in declared_ports(pod, NAME):
        if "name" in port:
            names.setdefault(int(port.get("containerPort", 0)), set()).add(str(port["name"]))
    return GuardedPods(namespace_of(document), labels_of(pod), listening, names)


def _before_headless(
    documents: Sequence[Document], document: Document, pod: Document, pods: GuardedPods, sidecar: SidecarContainer
) -> tuple[list[Listening], list[str]]:
    """Where the sidecar of this pod listens: at the model server's own port where callers of a headless Service come to
    that, if the model server can be moved away.
    """
    listening, notes, swapped = list(sidecar.listening), [], []
    for service, listening_port in headless_before(documents, pods):
        if listening_port not in listening:
            continue  # it was moved for another Service
        containers = [
            container
            for container, port in declared_ports(pod, NAME)
            if port.get("containerPort") == listening_port.upstream
        ]
        if move_server_port(containers[0], listening_port.upstream, listening_port.port):
            listening[listening.index(listening_port)] = Listening(
                listening_port.name, listening_port.upstream, listening_port.port
            )
            swapped.append(f"{listening_port.upstream}:{listening_port.port}")
            notes.append(
                f"{title_of(document)}: {title_of(service)} is headless, so {listening_port.name} listens on the "
                f"model server's port "
                f"{listening_port.upstream}, and the model server was moved to {listening_port.port}"
            )
        else:
            notes.append(
                f"{title_of(service)}: is headless, and its callers connect to port {listening_port.upstream} of "
                f"the pods, past "
                f"{listening_port.name}: have the model server listen on another port, and set upstream to that "
                f"and listen to "
                f"0.0.0.0:{listening_port.upstream}; or give the Service a cluster IP"
            )
    if swapped:
        annotate(pod, MOVED, ",".join(swapped))
    return listening, notes


def _before_pool(
    document: Document, pod: Document, served: Sequence[Listening], sidecar: SidecarContainer
) -> tuple[list[Listening], list[str]]:
    """Where the sidecar listens before a server that an inference pool finds by its port: at that, the server moved."""
    listening, notes, swapped = list(sidecar.listening), [], []
    for port in served:
        containers = [
            entry for entry, declared in declared_ports(pod, NAME) if declared.get("containerPort") == port.upstream
        ]
        if not move_server_port(containers[0], port.upstream, port.port):
            raise ConfigError(
                f"{title_of(document)}: callers come to port {port.upstream} of its container "
                f"{containers[0].get('name')}, whose arguments do not name it: give it `--port {port.upstream}`, so "
                f"that it can be moved, or put the processor before its route (tocsin attach --for)"
            )
        listening[listening.index(port)] = Listening(port.name, port.upstream, port.port)
        swapped.append(f"{port.upstream}:{port.port}")
        notes.append(
            f"{title_of(document)}: {port.name} listens on the model server's port {port.upstream}, and the model "
            f"server was moved to {port.port}"
        )
    annotate(pod, MOVED, ",".join(swapped))
    return listening, notes


def _move_back(pod: Document) -> None:
    """Undo what an earlier run has moved."""
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    for pair in str(annotations.pop(MOVED, "")).split(","):
        old, _, new = pair.partition(":")
        for container, port in list(declared_ports(pod, NAME)) if new else []:
            if port.get("containerPort") == int(new):
                move_server_port(container, int(new), int(old))


def _refuse_clashes(document: Document, pod: Document, sidecar: SidecarContainer) -> None:
    for container, port in declared_ports(pod, NAME):
        number = port.get("containerPort")
        if number in sidecar.ports:
            raise ConfigError(
                f"{sidecar.ports[number]}: port {number} is taken in {title_of(document)}, by its container "
                f"{container.get('name')}: set another in the configuration"
            )


def _put_in(document: Document, pod: Document, sidecar: SidecarContainer, served: Sequence[Listening]) -> None:
    """Add the sidecar's container and volumes to a pod, in place of those of an earlier run."""
    spec = pod["spec"]
    is_predictor = is_kserve(document) and document.get("kind") == "InferenceService"
    for kind in ("containers", "initContainers"):
        if spec.get(kind):
            spec[kind] = [entry for entry in spec[kind] if entry.get("name") != NAME]
    if is_predictor:
        put_into_predictor(document, pod, sidecar, served)
    elif sidecar.native:
        spec["initContainers"] = [*(spec.get("initContainers") or []), sidecar.container()]
    else:
        spec["containers"] = [*spec["containers"], sidecar.container()]
    if not spec.get("initContainers", True):
        del spec["initContainers"]
    volumes = [volume for volume in spec.get("volumes") or [] if volume.get("name") not in VOLUMES]
    spec["volumes"] = [*volumes, *sidecar.volumes()]
    spec["terminationGracePeriodSeconds"] = max(spec.get("terminationGracePeriodSeconds") or 30, sidecar.grace)
    annotate(pod, DIGEST, sidecar.digest())  # new pods when it changes
    if is_kserve(document):
        write_annotations(document, pod)


def _advice(document: Document, pod: Document, sidecar: SidecarContainer, served: Sequence[Listening]) -> list[str]:
    """Changes that only the owner of the manifests can make."""
    notes = []
    upstreams = {listening.upstream for listening in served} | {listening.port for listening in served}
    for container, port in declared_ports(pod, NAME):
        if port.get("containerPort") not in upstreams:
            continue
        if "preStop" not in (container.get("lifecycle") or {}):
            seconds = sidecar.config.drain_delay.total_seconds()
            notes.append(
                f"{title_of(document)}: container {container.get('name')} gets SIGTERM while callers still come: give "
                f"it a preStop hook that sleeps for {seconds:g} s (docs/kubernetes.md)"
            )
        if "hostPort" in port:
            notes.append(f"{title_of(document)}: hostPort {port['hostPort']} leads past {NAME}: take it out")
    if any(protocol.reflection for protocol in sidecar.config.protocols.values()):
        notes.append(
            f"{title_of(document)}: reflection: {NAME} ends and is started again until the model server answers; set "
            f"descriptors to avoid that"
        )
    return notes


def _nothing_found(documents: Sequence[Document], sidecar: SidecarContainer) -> str:
    ports = ", ".join(str(listening.upstream) for listening in sidecar.listening)
    kinds = ", ".join(dict.fromkeys(str(document.get("kind")) for document in documents)) or "nothing"
    return (
        f"there is no workload with a container port {ports}, where the configuration says the model server "
        f"listens (upstream); name the port in the container's `ports` (there is: {kinds})"
    )


def _config_map(document: Document) -> str:
    metadata: dict[str, Any] = document.get("metadata") or {}
    return f"{metadata.get('name') or str(metadata.get('generateName', '')).rstrip('-') or 'pod'}-{NAME}"


def _is_replaced(document: Document, written: dict[tuple[str | None, str], Document]) -> bool:
    """Whether a ConfigMap is from an earlier run and is written anew. Raises ConfigError where it is not Tocsin's."""
    name = str((document.get("metadata") or {}).get("name"))
    if document.get("kind") != "ConfigMap" or (namespace_of(document), name) not in written:
        return False
    if CONFIG_FILE not in (document.get("data") or {}):
        raise ConfigError(
            f"ConfigMap {name}: is there already, and holds something else: choose another by --config-map"
        )
    return True
