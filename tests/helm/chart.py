"""The chart rendered by Helm itself, with the values that its tests try."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

CHART = Path(__file__).parents[2] / "helm" / "tocsin"
DIGITS = {
    "bundle": "digits.tocsin",
    "session": "metadata.x-session-id",
    "signals": {"probs": "response.outputs.predict_proba", "embedding": "request.inputs.image"},
}
SMALL: dict[str, Any] = {
    "model": {"image": {"repository": "docker.io/seldonio/mlserver", "tag": "1.7.1"}},
    "tocsin": {"models": {"digits": DIGITS}, "bundles": {"configMap": {"name": "digits-bundle"}}},
}
FULL: dict[str, Any] = {
    "model": {
        "image": {"repository": "registry/model", "tag": "v1"},
        "port": 9000,
        "command": ["serve"],
        "args": ["--fast"],
        "env": [{"name": "A", "value": "b"}],
        "resources": {"limits": {"memory": "1Gi"}},
        "readinessProbe": {"grpc": {"port": 9000}},
        "livenessProbe": {"grpc": {"port": 9000}},
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    },
    "tocsin": {
        "mode": "annotate",
        "models": {
            "digits": {
                **DIGITS,
                "group": "metadata.x-tenant",
                "session_idle": "5m",
                "risk": {"wrong_costs": 5, "review_costs": 0.5},
                "adapt": {"method": "aci", "step": 0.02},
            },
            "other": {"signals": {"probs": "response.outputs.p"}, "discoveries": {"false_share": 0.2}},
        },
        "bundles": {"persistentVolumeClaim": {"claimName": "bundles"}},
    },
    "replicas": 3,
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True},
    "grafanaRules": {"enabled": True, "file": "apiVersion: 1\ngroups:\n- name: '{{ $labels.model }}'\n"},
    "podDisruptionBudget": {"enabled": True, "minAvailable": "50%"},
    "networkPolicy": {"enabled": True, "scrapers": [{"namespaceSelector": {"matchLabels": {"a": "monitoring"}}}]},
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"team": "x"}},
        }
    ],
    "serviceAccountName": "model",
    "imagePullSecrets": [{"name": "pull"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "x"},
    "service": {"annotations": {"c": "d"}},
    "volumes": [{"name": "models", "emptyDir": {}}],
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
DIGEST = f"sha256:{'0' * 64}"
EVERYTHING: dict[str, Any] = {
    **FULL,
    "tocsin": {
        **FULL["tocsin"],
        "bundles": {},
        "native": True,
        "fetch": [
            {"source": "oci://registry/models/digits:v1", "digest": f"sha256:{'0' * 64}", "file": "digits.tocsin"}
        ],
        "fetchSecret": "store",
        "tls": {"enabled": True, "clients": True},
        "state": {"redis": "rediss://redis:6379/0", "passwordSecret": {"name": "redis", "key": "password"}},
    },
    "autoscaling": {"enabled": True},
    "certificate": {"enabled": True, "issuerRef": {"name": "internal", "kind": "ClusterIssuer"}, "dnsNames": ["a.b"]},
    "prometheusAnnotations": True,
    "prometheusRule": {"enabled": True, "groups": [{"name": "g", "rules": []}], "labels": {"release": "prometheus"}},
}
GATEWAY: dict[str, Any] = {
    "kind": "gateway",
    "gateway": {"upstream": "triton.models:8001"},
    "tocsin": {"models": {"digits": DIGITS}, "bundles": {"image": {"reference": "registry/bundles:v1"}}},
    "autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 30},
    "podDisruptionBudget": {"enabled": True},
}
PROCESSOR: dict[str, Any] = {
    **{key: value for key, value in GATEWAY.items() if key != "gateway"},
    "extProc": {"enabled": True, "metadata": "tocsin"},
    "networkPolicy": {"enabled": True},
}
MATRIX = {
    "small": SMALL, "full": FULL, "everything": EVERYTHING, "gateway": GATEWAY, "processor": PROCESSOR,
}  # fmt: skip


def rendered(values: dict[str, Any], chart: Path = CHART) -> dict[str, dict[str, Any]]:
    files = helm.Chart.load(str(chart)).render(values, name="digits", namespace="models")
    texts = files.values() if isinstance(files, dict) else [files]
    documents = [d for text in texts if "kind:" in str(text) for d in yaml.safe_load_all(str(text)) if d]
    named = {"-dashboards": "Dashboards", "-alerts": "GrafanaRules", "-reachable": "Test"}  # second ones of their kind
    return {
        next(
            (key for end, key in named.items() if document["metadata"]["name"].endswith(end)), document["kind"]
        ): document
        for document in documents
    }


def pods(manifests: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The specs of all pods."""
    for manifest in manifests.values():
        if manifest["kind"] == "Deployment":
            yield manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "Pod":
            yield manifest["spec"]


def having(values: dict[str, Any], **tocsin: Any) -> dict[str, Any]:
    """The chart's values, with these settings of the relay changed."""
    return {**values, "tocsin": {**values["tocsin"], **tocsin}}


OWN_PROTOCOL: dict[str, Any] = {"own": {"methods": {"/a.B/C": {}}}}
