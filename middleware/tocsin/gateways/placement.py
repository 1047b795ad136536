"""Where a policy stands in a cluster of Kubernetes: its name, what it applies to, and the processor's Service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
KINDS = ("Gateway", "HTTPRoute", "GRPCRoute")
GATEWAY_API = "gateway.networking.k8s.io"


@dataclass(frozen=True)
class Placement:
    """`namespace` is the policy's, empty where the command that applies it says so; so is `service_namespace`."""

    name: str
    namespace: str
    target_kind: str
    target_name: str
    service: str
    service_namespace: str
    port: int

    @classmethod
    def of(cls, name: str, namespace: str, target: str, processor: str, port: int) -> Self:
        """Of the command's options: `target` KIND/NAME, `processor` SERVICE[.NAMESPACE][:PORT]. Raises ValueError."""
        kind, slash, target_name = target.partition("/")
        if not slash or kind not in KINDS or not _NAME.fullmatch(target_name):
            raise ValueError(
                f"--target: expected {', '.join(f'{kind_name}/NAME' for kind_name in KINDS)}, not '{target}'"
            )
        host, colon, port_text = processor.partition(":")
        parts = (host or name).split(".")
        if (colon and not port_text.isdigit()) or not all(_NAME.fullmatch(part) for part in parts):
            raise ValueError(
                f"--processor: expected SERVICE, SERVICE.NAMESPACE or either with :PORT, not '{processor}'"
            )
        if not _NAME.fullmatch(name):
            raise ValueError(f"--name: expected a name as Kubernetes has them, not '{name}'")
        where = parts[1] if len(parts) > 1 else namespace
        return cls(name, namespace, kind, target_name, parts[0], where, int(port_text) if colon else port)

    def metadata(self) -> dict[str, Any]:
        return {"name": self.name, **({"namespace": self.namespace} if self.namespace else {})}

    def target_ref(self) -> dict[str, str]:
        return {"group": GATEWAY_API, "kind": self.target_kind, "name": self.target_name}

    def backend_ref(self) -> dict[str, Any]:
        """The processor's Service, in another namespace where it is in one."""
        elsewhere = {"namespace": self.service_namespace} if self.is_elsewhere else {}
        return {"name": self.service, **elsewhere, "port": self.port}

    @property
    def is_elsewhere(self) -> bool:
        return bool(self.service_namespace) and self.service_namespace != self.namespace

    @property
    def host(self) -> str:
        """The Service's name in DNS; that of a Service in the policy's namespace, where none is given, is short."""
        return f"{self.service}.{self.service_namespace}.svc" if self.service_namespace else self.service

    def grant(self, group: str, kind: str) -> list[dict[str, Any]]:
        """What lets a policy of this kind name a Service of another namespace."""
        if not self.is_elsewhere:
            return []
        if not self.namespace:
            raise ValueError("--namespace: the policy's, since --processor names a Service of another")
        return [
            {
                "apiVersion": f"{GATEWAY_API}/v1beta1",
                "kind": "ReferenceGrant",
                "metadata": {"name": self.name, "namespace": self.service_namespace},
                "spec": {
                    "from": [{"group": group, "kind": kind, "namespace": self.namespace}],
                    "to": [{"group": "", "kind": "Service", "name": self.service}],
                },
            }
        ]


def milliseconds(seconds: float) -> str:
    """A duration as the Gateway API writes it. Raises ValueError beyond what it can."""
    count = round(seconds * 1000)
    if count % 1000 == 0 and count >= 1000:
        count, unit = count // 1000, "s"
    else:
        unit = "ms"
    if count > 99_999:
        raise ValueError(
            f"a reply may take {seconds:g}s (scoring_budget, retry, fallback): the gateway's API ends at 27h"
        )
    return f"{count}{unit}"
