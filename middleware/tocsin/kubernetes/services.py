"""Services: which of them lead to a model server, and how they are pointed at the sidecar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tocsin.kubernetes.sidecar import Listening
from tocsin.kubernetes.workloads import Document, namespace_of, title_of

PLAIN, SECURE = ("kubernetes.io/h2c", "grpc", "http", "http2"), ("https", "grpcs")  # values of appProtocol


@dataclass
class GuardedPods:
    """Pods with a sidecar. `names` are those that the model server's ports have, by number."""

    namespace: str | None
    labels: dict[str, str]
    listening: Sequence[Listening]
    names: dict[int, set[str]] = field(default_factory=dict)

    def behind(self, port: Document) -> Listening | None:
        """The port of the sidecar before what a Service's port leads to, None where that is something else."""
        target = port.get("targetPort", port.get("port"))
        for listening_port in self.listening:
            named = self.names.get(listening_port.upstream, set()) | self.names.get(listening_port.port, set())
            if target in (listening_port.upstream, listening_port.name, listening_port.port) or target in named:
                return listening_port
        return None


def selects_pods(service: Document, namespace: str | None, labels: dict[str, str]) -> bool:
    """Whether a Service leads to pods of these labels."""
    selector = (service.get("spec") or {}).get("selector") or {}
    core = service.get("kind") == "Service" and str(service.get("apiVersion", "v1")) == "v1"
    return bool(core and selector and namespace_of(service) == namespace and selector.items() <= labels.items())


def is_headless(service: Document) -> bool:
    """Whether callers of a Service get the pods' own addresses, so that its targetPort means nothing to them."""
    return (service.get("spec") or {}).get("clusterIP") == "None"


def headless_before(documents: Iterable[Document], pods: GuardedPods) -> list[tuple[Document, Listening]]:
    """Headless Services whose callers connect to the model server's own port, and the sidecar's port for it."""
    result = []
    for service in documents:
        if is_headless(service) and selects_pods(service, pods.namespace, pods.labels):
            for port in service["spec"].get("ports") or []:
                listening = pods.behind(port)
                if listening is not None and port.get("port") != listening.port:
                    result.append((service, listening))
    return result


def redirect_ports(service: Document, pods: Iterable[GuardedPods], secure: dict[str, bool]) -> list[str]:
    """Point a Service's ports that lead to a model server at the sidecar; what was done. `secure` tells of the
    sidecar's ports whether callers speak TLS there.
    """
    notes = []
    for guarded in pods:
        if not selects_pods(service, guarded.namespace, guarded.labels):
            continue
        for port in service["spec"].get("ports") or []:
            before = guarded.behind(port)
            if before is None or (is_headless(service) and port.get("port") != before.port):
                continue
            if port.get("targetPort") != before.name:
                notes.append(f"{title_of(service)}: port {port.get('port')} leads to {before.name}")
            port["targetPort"] = before.name
            protocol = port.get("appProtocol")
            if protocol in (PLAIN if secure[before.name] else SECURE):
                port["appProtocol"] = SECURE[0] if secure[before.name] else PLAIN[0]
                notes.append(
                    f"{title_of(service)}: appProtocol {protocol} is {port['appProtocol']} now, as the relay speaks"
                )
    return notes


def leads_to_sidecar(service: Document, pods: GuardedPods, listening: Listening) -> bool:
    """Whether a Service has a port that leads to this port of the sidecar."""
    ports = (service.get("spec") or {}).get("ports") or []
    return selects_pods(service, pods.namespace, pods.labels) and any(
        port.get("targetPort") == listening.name for port in ports
    )


def shut_out(policy: Document, pods: GuardedPods) -> list[str]:
    """A warning about a NetworkPolicy that admits callers to the model server's port and not to the sidecar's."""
    spec = policy.get("spec") or {}
    selector = spec.get("podSelector") or {}
    labels = selector.get("matchLabels") or {}
    if namespace_of(policy) != pods.namespace or not labels.items() <= pods.labels.items():
        return []
    ports = {port.get("port") for rule in spec.get("ingress") or [] for port in (rule or {}).get("ports") or []}
    return [
        f"{title_of(policy)}: lets callers to port {listening.upstream} of the pods, past {listening.name}, and "
        f"not to {listening.port}: "
        f"let them to port {listening.name} instead"
        for listening in pods.listening
        if ports & {listening.upstream, *pods.names.get(listening.upstream, ())}
        and not ports & {listening.name, listening.port}
    ]
