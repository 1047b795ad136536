"""The sidecar as Kubernetes writes it: its container, its volumes, and the configuration it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from tocsin.configuration.config import Config

NAME, CONFIG, BUNDLES = "tocsin", "tocsin-config", "tocsin-bundles"
PORT, METRICS = "tocsin", "tocsin-metrics"  # names of ports


@dataclass(frozen=True)
class Sidecar:
    """What is put beside a model server.

    `settings` are those of the configuration's file, `bundles` a volume source as Kubernetes writes it, `native`: an
    init container that goes on running (Kubernetes 1.29 and later), started before the model server and ended after.
    """

    config: Config
    settings: Mapping[str, Any]
    image: str
    bundles: Mapping[str, Any]
    config_map: str
    native: bool = True

    def container(self) -> dict[str, Any]:
        """The container."""
        probe: dict[str, Any] = {"httpGet": {"path": "/healthz", "port": METRICS}}
        mounts = [{"name": CONFIG, "mountPath": "/etc/tocsin", "readOnly": True}]
        if self.bundles:
            mounts.append({"name": BUNDLES, "mountPath": "/bundles", "readOnly": True})
        made: dict[str, Any] = {
            "name": NAME,
            "image": self.image,
            "args": ["tocsin", "serve", "--config", "/etc/tocsin/tocsin.yaml"],
            "ports": [
                {"name": PORT, "containerPort": self.config.listen.port},
                {"name": METRICS, "containerPort": self.metrics_port},
            ],
            "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": 60},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": METRICS}, "periodSeconds": 5},
            "livenessProbe": {**probe, "periodSeconds": 10},
            "resources": {"requests": {"cpu": "100m", "memory": "192Mi"}, "limits": {"memory": "512Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": mounts,
        }
        if self.native:
            made["restartPolicy"] = "Always"
        return made

    def volumes(self) -> list[dict[str, Any]]:
        """The volumes."""
        made: list[dict[str, Any]] = [{"name": CONFIG, "configMap": {"name": self.config_map}}]
        return [*made, {"name": BUNDLES, **self.bundles}] if self.bundles else made

    def configuration(self, namespace: str | None) -> dict[str, Any]:
        """The ConfigMap with the configuration, as it is to be read inside the pod: all addresses, bundles mounted."""
        settings = {
            **self.settings,
            "listen": f"0.0.0.0:{self.config.listen.port}",
            "metrics": f"0.0.0.0:{self.metrics_port}",
            "models": {name: _mounted(model) for name, model in self.settings["models"].items()},
        }
        metadata = {"name": self.config_map, **({"namespace": namespace} if namespace else {})}
        text = yaml.safe_dump(settings, sort_keys=False)
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"tocsin.yaml": text}}

    @property
    def metrics_port(self) -> int:
        """Where metrics and probes are; probes need one."""
        return self.config.metrics.port if self.config.metrics is not None else 9464


def _mounted(model: Mapping[str, Any]) -> dict[str, Any]:
    bundles = ("bundle", "shadow")
    return {
        key: f"/bundles/{PurePath(str(value)).name}" if key in bundles and value else value
        for key, value in model.items()
    }
