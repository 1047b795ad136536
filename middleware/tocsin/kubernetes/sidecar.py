"""The sidecar as Kubernetes resources: its container, its volumes, and its configuration."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import ConfigError
from tocsin.kubernetes import files
from tocsin.kubernetes.files import CONFIG_FILE, Placed, Way, place_files

NAME, CONFIG, BUNDLES, SECRETS, DATA = "tocsin", "tocsin-config", "tocsin-bundles", "tocsin-secrets", "tocsin-data"
VOLUMES = (CONFIG, BUNDLES, SECRETS, DATA)
PORT, METRICS = "tocsin", "tocsin-metrics"  # names of ports
GRACE_MARGIN = 15  # seconds that a pod has beyond draining


class Listening(NamedTuple):
    """A port of the sidecar by its name, and the model server's port behind it."""

    name: str
    port: int
    upstream: int


@dataclass(frozen=True)
class SidecarContainer:
    """What is put beside a model server.

    `bundles` is a volume source as Kubernetes writes it, `secrets` names Secrets with files that the configuration
    names, `native`: an init container that goes on running (Kubernetes 1.29 and later), started before the model
    server and ended after. `config_map` is the ConfigMap's name.
    """

    config: Config
    placed: Placed
    image: str
    bundles: Mapping[str, Any]
    secrets: Sequence[str]
    config_map: str
    native: bool
    listening: tuple[Listening, ...]

    @classmethod
    def of(
        cls,
        path: Path,
        image: str,
        bundles: Mapping[str, Any],
        *,
        secrets: Sequence[str] = (),
        config_map: str = "",
        native: bool = True,
    ) -> SidecarContainer:
        """The sidecar for a configuration file. Raises ConfigError where it could not start in a pod."""
        config = Config.load(path)
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        problems = _problems(config, native)
        try:
            there = place_files(settings, path.parent, bundles=bool(bundles), secrets=secrets)
        except ConfigError as error:
            problems += str(error).splitlines()
        if problems:
            raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
        listening = tuple(
            Listening(PORT if not at else f"{PORT}-{at + 1}", listener.listen.port, listener.upstream.port)
            for at, listener in enumerate(config.every_listener)
        )
        return cls(config, there, image, bundles, tuple(secrets), config_map, native, listening)

    def listening_on(self, listening: Sequence[Listening]) -> SidecarContainer:
        """The same on other ports."""
        return dataclasses.replace(self, listening=tuple(listening))

    def container(self) -> dict[str, Any]:
        """The container."""
        probe: dict[str, Any] = {"httpGet": {"path": "/healthz", "port": METRICS}}
        container: dict[str, Any] = {
            "name": NAME,
            "image": self.image,
            "args": ["tocsin", "serve", "--config", f"/etc/tocsin/{CONFIG_FILE}"],
            "ports": [
                *({"name": listening.name, "containerPort": listening.port} for listening in self.listening),
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
            "volumeMounts": [
                {"name": name, "mountPath": where, **({} if name == DATA else {"readOnly": True})}
                for name, where, _ in self._mounted()
            ],
        }
        if self.native:
            container["restartPolicy"] = "Always"
        return container

    def volumes(self) -> list[dict[str, Any]]:
        """The volumes."""
        return [{"name": name, **source} for name, _, source in self._mounted()]

    def configuration(self, namespace: str | None) -> dict[str, Any]:
        """The ConfigMap with the configuration for the pod, and files beside it."""
        metadata = {"name": self.config_map, **({"namespace": namespace} if namespace else {})}
        config_map: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        config_map["data"] = {CONFIG_FILE: self._text()}
        if self.placed.carried:
            config_map["binaryData"] = {
                name: base64.b64encode(content).decode() for name, content in self.placed.carried.items()
            }
        return config_map

    def digest(self) -> str:
        """A digest that changes with the configuration."""
        content = self.configuration(None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def metrics_port(self) -> int:
        """The port of metrics and probes; probes need one."""
        return self.config.metrics.port if self.config.metrics is not None else 9464

    @property
    def ports(self) -> dict[int, str]:
        """Every port that the sidecar uses, and the setting behind it."""
        taken_ports = {
            listening.port: "listen" if not at else f"listeners.{at - 1}.listen"
            for at, listening in enumerate(self.listening)
        }
        admin = self.config.admin
        return {
            **({admin.port: "admin"} if admin is not None and not admin.path else {}),
            self.metrics_port: "metrics",
        } | taken_ports

    @property
    def grace(self) -> int:
        """How many seconds a pod needs to end."""
        return int((self.config.drain_delay + self.config.drain).total_seconds()) + GRACE_MARGIN

    def _mounted(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """Volumes: name, where they are mounted, source."""
        mounts: list[tuple[str, str, Mapping[str, Any]]] = [
            (CONFIG, "/etc/tocsin", {"configMap": {"name": self.config_map}})
        ]
        if self.bundles:
            mounts.append((BUNDLES, files.BUNDLES, self.bundles))
        if Way.SECRET in self.placed.ways:
            sources = [{"secret": {"name": name}} for name in self.secrets]
            mounts.append((SECRETS, files.SECRETS, {"projected": {"sources": sources}}))
        if Way.WRITTEN in self.placed.ways:
            mounts.append((DATA, files.DATA, {"emptyDir": {}}))
        return mounts

    def _text(self) -> str:
        """The configuration: on all addresses, of IPv6 too where the file has one."""
        hosts = [self.config.metrics, *(listener.listen for listener in self.config.every_listener)]
        every = "::" if any(":" in address.host for address in hosts if address is not None) else "0.0.0.0"
        upstreams = [listener.upstream for listener in self.config.every_listener]
        addresses = [
            {
                "listen": str(Address(every, listener_settings.port)),
                "upstream": str(Address(upstream.host, listener_settings.upstream)),
            }
            for listener_settings, upstream in zip(self.listening, upstreams, strict=True)
        ]
        settings = {**self.placed.settings, **addresses[0], "metrics": str(Address(every, self.metrics_port))}
        if self.config.listeners:
            listeners = self.placed.settings["listeners"]
            settings["listeners"] = [
                {**listener_settings, **at} for listener_settings, at in zip(listeners, addresses[1:], strict=True)
            ]
        return str(yaml.safe_dump(settings, sort_keys=False, width=1_000, allow_unicode=True))


def _problems(config: Config, native: bool) -> list[str]:
    """Why a pod could not start, or callers would bypass the sidecar, besides files."""
    problems = []
    for at, listener in enumerate(config.every_listener):
        where = f"listeners.{at - 1}." if at else ""
        if listener.listen.path or listener.upstream.path:
            problems.append(f"{where}listen and upstream: inside a pod both are HOST:PORT")
        elif not _is_loopback(listener.upstream.host):
            problems.append(
                f"{where}upstream: {listener.upstream} is not inside the pod, where a sidecar's model server is: set "
                f"127.0.0.1:{listener.upstream.port}. A relay before one elsewhere is the chart's `kind: gateway`"
            )
        elif listener.listen.port == listener.upstream.port:
            problems.append(
                f"{where}listen: port {listener.listen.port} is the model server's, in the same pod: set another, for "
                f"example 0.0.0.0:{_other(listener.upstream.port)}"
            )
    for name, protocol in config.protocols.items():
        if protocol.reflection and native:
            problems.append(
                f"protocols.{name}.reflection: a native sidecar starts before the model server that is to be asked, "
                f"and each would wait for the other: set descriptors instead, or choose --plain"
            )
    for name, model in config.models.items():
        if model.fallback is not None and model.fallback.upstream.path:
            problems.append(f"models.{name}.fallback.upstream: inside a pod it is HOST:PORT")
    if config.state is not None and config.state.redis.startswith("unix:"):
        problems.append("state.redis: the sidecar has no such socket: name HOST:PORT")
    return problems


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _other(port: int) -> int:
    return port + 10_000 if port < 55_000 else port - 10_000
