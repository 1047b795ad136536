"""Claims about the chart: rendered by Helm itself, its manifests checked against Kubernetes' schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from tocsin.configuration.config import Config

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


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    files = helm.Chart.load(str(CHART)).render(values, name="digits", namespace="models")
    texts = files.values() if isinstance(files, dict) else [files]
    documents = [d for text in texts if "kind:" in str(text) for d in yaml.safe_load_all(str(text)) if d]
    named = {"-dashboards": "Dashboards"}  # a second one of its kind
    return {
        next(
            (key for end, key in named.items() if document["metadata"]["name"].endswith(end)), document["kind"]
        ): document
        for document in documents
    }


def test_helm_lints_the_chart_without_an_error() -> None:
    assert helm.lint(str(CHART))["errors"] == []


@pytest.mark.parametrize("version", ["1.29", "1.32", "1.34"])
@pytest.mark.parametrize("values", [SMALL, FULL], ids=["small", "full"])
def test_manifests_fit_kubernetes_schemas(values: dict[str, Any], version: str) -> None:
    made = rendered(values)
    assert set(made) >= {"ConfigMap", "Deployment", "Service"}
    for kind, manifest in made.items():
        if kind != "PodMonitor":  # a custom resource, of which Kubernetes has no schema
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_relay_reads_the_configuration_that_the_chart_writes(tmp_path: Path) -> None:
    made = rendered(FULL)
    path = tmp_path / "tocsin.yaml"
    path.write_text(made["ConfigMap"]["data"]["tocsin.yaml"])
    config = Config.load(path)
    assert (str(config.listen), str(config.upstream), config.mode) == ("0.0.0.0:8001", "127.0.0.1:9000", "annotate")
    assert str(config.models["digits"].bundle) == "/bundles/digits.tocsin"
    assert config.models["digits"].session == "metadata.x-session-id"
    assert str(config.models["digits"].signals["embedding"]) == "request.inputs.image"
    assert config.models["other"].bundle is None


def test_the_sidecar_mounts_what_it_reads_and_may_do_little() -> None:
    pod = rendered(SMALL)["Deployment"]["spec"]["template"]["spec"]
    model, tocsin = pod["containers"]
    assert model["image"] == "docker.io/seldonio/mlserver:1.7.1"
    assert tocsin["args"] == ["tocsin", "serve", "--config", "/etc/tocsin/tocsin.yaml"]
    mounted = {mount["name"]: mount["mountPath"] for mount in tocsin["volumeMounts"]}
    assert mounted == {"tocsin-config": "/etc/tocsin", "tocsin-bundles": "/bundles"}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
    assert tocsin["securityContext"]["readOnlyRootFilesystem"] and tocsin["securityContext"]["runAsNonRoot"]
    assert pod["terminationGracePeriodSeconds"] > 30


def test_service_probes_and_monitor_meet_the_relays_ports() -> None:
    made = rendered(FULL)
    tocsin = made["Deployment"]["spec"]["template"]["spec"]["containers"][1]
    ports = {port["name"]: port["containerPort"] for port in tocsin["ports"]}
    assert ports == {"grpc": 8001, "tocsin-metrics": 9464}
    assert made["Service"]["spec"]["ports"][0]["targetPort"] == "grpc"
    assert tocsin["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "tocsin-metrics"}
    assert made["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] == "tocsin-metrics"
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (made["Service"]["spec"]["selector"], made["PodMonitor"]["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()


def test_a_native_sidecar_is_the_same_container_that_starts_first() -> None:
    plain = rendered(SMALL)["Deployment"]["spec"]["template"]["spec"]
    native = rendered({**SMALL, "tocsin": {**SMALL["tocsin"], "native": True}})
    kubernetes_validate.validate(native["Deployment"], "1.32", strict=True)
    spec = native["Deployment"]["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["containers"]] == ["model"]
    assert spec["initContainers"] == [{**plain["containers"][1], "restartPolicy": "Always"}]


def test_a_network_policy_leaves_the_model_servers_own_port_shut() -> None:
    made = rendered(FULL)
    rules = made["NetworkPolicy"]["spec"]["ingress"]
    assert [[port["port"] for port in rule["ports"]] for rule in rules] == [["grpc"], ["tocsin-metrics"]]
    assert "from" not in rules[0] and rules[1]["from"]
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_dashboards_come_as_they_are() -> None:
    assert "Dashboards" not in rendered(SMALL)
    made = rendered(FULL)["Dashboards"]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    for name, text in made["data"].items():
        assert json.loads(text) == json.loads((CHART / "dashboards" / name).read_text())


def test_a_changed_configuration_starts_new_pods() -> None:
    def checksum(mode: str) -> str:
        values = {**SMALL, "tocsin": {**SMALL["tocsin"], "mode": mode}}
        return str(rendered(values)["Deployment"]["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum("observe") == checksum("observe") != checksum("annotate")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": {}}, "model.image.repository"),
        ({"tocsin": {"models": {}}}, "tocsin.models"),
        ({"tocsin": {"mode": "strict", "models": {"digits": DIGITS}}}, "/tocsin/mode"),
        ({"tocsin": {"models": {"digits": {"signals": {"probs": "nowhere"}}}}}, "/tocsin/models/digits/signals/probs"),
        ({"tocsin": {"models": {"digits": {}}}}, "signals"),
    ],
)
def test_values_that_cannot_work_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(helm.HelmError) as caught:
        rendered({**SMALL, **change})
    assert told in str(caught.value)
