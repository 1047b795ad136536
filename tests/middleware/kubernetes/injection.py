"""What tests of `tocsin inject` share: a model server's manifests, the command, and what came out of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.errors import ConfigError

CONFIG: dict[str, Any] = {
    "listen": "127.0.0.1:8001",
    "upstream": "127.0.0.1:9000",
    "mode": "annotate",
    "models": {
        "digits": {
            "bundle": "made/digits.tocsin",
            "shadow": "next.tocsin",
            "signals": {"probs": "response.outputs.predict_proba"},
        }
    },
}


LABELS = {"app": "digits"}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "digits", "namespace": "models"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": LABELS},
        "template": {
            "metadata": {"labels": LABELS},
            "spec": {
                "containers": [
                    {"name": "model", "image": "model:1", "ports": [{"name": "grpc", "containerPort": 9000}]},
                    {"name": "other", "image": "other:1"},
                ],
                "volumes": [{"name": "scratch", "emptyDir": {}}],
            },
        },
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "digits", "namespace": "models"},
    "spec": {
        "selector": LABELS,
        "ports": [{"name": "grpc", "port": 9000, "targetPort": "grpc"}, {"name": "http", "port": 8080}],
    },
}
UNRELATED: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 9000}]},
}
FILES: dict[str, Any] = {
    "tls": {"certificate": "tls/tls.crt", "key": "tls/tls.key", "client_ca": "tls/ca.crt"},
    "upstream_tls": {"ca": "up/upstream-ca.pem"},
    "admin_token": "token",
    "admin_tls": {"certificate": "admin.crt", "key": "admin.key"},
    "events": {
        "to": [
            {"webhook": "https://events.example/", "secret": "whsec"},
            {"kafka": "kafka:9092", "settings": "kafka.txt"},
            {"file": "alarms.jsonl"},
        ],
        "spool": "spool",
    },
    "opentelemetry": {"headers": "otlp.txt", "ca": "otlp.pem"},
    "state": {"redis": "rediss://redis:6379/0", "password": "password", "ca": "redis.pem"},
    "protocols": {"own": {"descriptors": "own.binpb", "methods": {"/a.B/C": {}}}},
}
BUNDLES = ("--bundles", "configmap:digits-bundles")


def run(folder: Path, text: str, *options: str, code: int = 0, config: dict[str, Any] = CONFIG) -> Any:
    (folder / "tocsin.yaml").write_text(yaml.safe_dump(config))
    words = [
        "inject",
        "-",
        "-c",
        str(folder / "tocsin.yaml"),
        *(options if "--bundles" in options else BUNDLES + options),
    ]
    done = CliRunner().invoke(app, words, input=text)
    assert (done.exit_code == 0) == (code == 0), (done.output, done.exception)
    return done


def refused(folder: Path, text: str, *options: str, config: dict[str, Any] = CONFIG) -> str:
    """The error message of a run that must fail; a ConfigError ends the command with exit code 2."""
    exception = run(folder, text, *options, code=2, config=config).exception
    assert isinstance(exception, ConfigError)
    return str(exception)


def documents(text: str) -> dict[str, Any]:
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in yaml.safe_load_all(text)}


def manifests(*parts: dict[str, Any]) -> str:
    return yaml.safe_dump_all(parts)


def changed(document: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A Service with other settings."""
    return {**document, "spec": {**document["spec"], **spec}}


def serving(*words: str, port: int = 9000, **container: Any) -> dict[str, Any]:
    """The Deployment with another model server."""
    deployment = copy.deepcopy(DEPLOYMENT)
    model = deployment["spec"]["template"]["spec"]["containers"][0]
    model.update({"args": list(words), "ports": [{"name": "grpc", "containerPort": port}], **container})
    return deployment


def configuration(injected: dict[str, Any], name: str = "digits-tocsin") -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(injected[f"ConfigMap/{name}"]["data"]["tocsin.yaml"])
    return read


def pod(injected: dict[str, Any], name: str = "digits") -> dict[str, Any]:
    spec: dict[str, Any] = injected[f"Deployment/{name}"]["spec"]["template"]["spec"]
    return spec


def fits(injected: dict[str, Any]) -> None:
    for manifest in injected.values():
        kubernetes_validate.validate(manifest, "1.34", strict=True)
