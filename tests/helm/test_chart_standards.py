"""Claims about all that the chart renders: it fits Kubernetes' schemas and the restricted Pod Security Standard."""

from __future__ import annotations

import json
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from tests.helm.chart import CHART, MATRIX, SMALL, pods, rendered

VOLUMES = (
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
)  # fmt: skip


CUSTOM = {"PodMonitor", "PrometheusRule", "Certificate"}  # resources of which Kubernetes has no schema


def against_the_restricted_standard(pod: dict[str, Any]) -> list[str]:
    """How a pod violates the Pod Security Standard `restricted`."""
    pod_context, violations = pod.get("securityContext", {}), []
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        violations += [name] if pod.get(name) else []
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
    }
    for volume in pod.get("volumes", []):
        violations += [f"volume {kind}" for kind in volume if kind not in {"name", "secret", *allowed}]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        has = container.get("securityContext", {})
        profile = has.get("seccompProfile", pod_context.get("seccompProfile", {})).get("type")
        checks = {
            "privileged": not has.get("privileged"),
            "allowPrivilegeEscalation": has.get("allowPrivilegeEscalation") is False,
            "runAsNonRoot": has.get("runAsNonRoot", pod_context.get("runAsNonRoot")) is True,
            "runAsUser": has.get("runAsUser", pod_context.get("runAsUser", 1)) != 0,
            "capabilities.drop": "ALL" in has.get("capabilities", {}).get("drop", []),
            "capabilities.add": set(has.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
            "seccompProfile": profile in ("RuntimeDefault", "Localhost"),
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
        }
        violations += [f"{container['name']}: {name}" for name, holds in checks.items() if not holds]
    return violations


def test_helm_lints_the_chart_without_an_error() -> None:
    assert helm.lint(str(CHART))["errors"] == []


@pytest.mark.parametrize("version", ["1.29", "1.32", "1.34"])
@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_manifests_fit_kubernetes_schemas(values: dict[str, Any], version: str) -> None:
    manifests = rendered(values)
    assert set(manifests) >= {"ConfigMap", "Deployment", "Service", "Test"}
    for manifest in manifests.values():
        images = version < "1.31" and "registry/bundles:v1" in json.dumps(manifest)  # image volumes are younger
        if manifest["kind"] not in CUSTOM and not images:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_pods_meet_the_restricted_pod_security_standard(values: dict[str, Any]) -> None:
    for pod in pods(rendered(values)):
        assert against_the_restricted_standard(pod) == []
        assert pod["automountServiceAccountToken"] is False


def test_the_standard_is_held_to() -> None:
    values = {**SMALL, "model": {**SMALL["model"], "securityContext": {"privileged": True}}, "podSecurityContext": None}
    (pod, *_) = pods(rendered(values))
    assert {"model: privileged", "model: seccompProfile"} <= set(against_the_restricted_standard(pod))


def test_every_value_is_described_and_no_other_taken() -> None:
    schema, values = (
        json.loads((CHART / "values.schema.json").read_text()),
        yaml.safe_load((CHART / "values.yaml").read_text()),
    )

    def undescribed(schema: dict[str, Any], value: Any, path: str) -> list[str]:
        missing = [] if schema.get("description") or not path else [path]
        if isinstance(value, dict) and "properties" in schema:
            missing += [f"{path}.{name} is not known" for name in value if name not in schema["properties"]]
            for name, subschema in schema["properties"].items():
                missing += undescribed(subschema, value.get(name), f"{path}.{name}")
        return missing

    assert undescribed(schema, values, "") == []
    with pytest.raises(helm.HelmError, match="autoscalling"):
        rendered({**SMALL, "autoscalling": {}})
