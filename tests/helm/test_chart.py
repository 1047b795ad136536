"""Claims about the chart: rendered by Helm itself, its manifests checked against Kubernetes' schemas."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import grpc
import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from tests.helm.chart import CHART, DIGEST, DIGITS, EVERYTHING, FULL, GATEWAY, PROCESSOR, SMALL, having, rendered
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.cli.verbs import imported
from tocsin.configuration.config import Config
from tocsin.configuration.model import ModelConfig


def test_the_relay_reads_the_configuration_that_the_chart_writes(tmp_path: Path) -> None:
    manifests = rendered(FULL)
    path = tmp_path / "tocsin.yaml"
    path.write_text(manifests["ConfigMap"]["data"]["tocsin.yaml"])
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
    manifests = rendered(FULL)
    tocsin = manifests["Deployment"]["spec"]["template"]["spec"]["containers"][1]
    ports = {port["name"]: port["containerPort"] for port in tocsin["ports"]}
    assert ports == {"grpc": 8001, "tocsin-metrics": 9464}
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] == "grpc"
    assert tocsin["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "tocsin-metrics"}
    assert manifests["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] == "tocsin-metrics"
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        manifests["Service"]["spec"]["selector"],
        manifests["PodMonitor"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


def test_a_native_sidecar_is_the_same_container_that_starts_first() -> None:
    plain = rendered(SMALL)["Deployment"]["spec"]["template"]["spec"]
    native = rendered({**SMALL, "tocsin": {**SMALL["tocsin"], "native": True}})
    kubernetes_validate.validate(native["Deployment"], "1.32", strict=True)
    spec = native["Deployment"]["spec"]["template"]["spec"]
    assert [container["name"] for container in spec["containers"]] == ["model"]
    assert spec["initContainers"] == [{**plain["containers"][1], "restartPolicy": "Always"}]


def test_a_network_policy_leaves_the_model_servers_own_port_shut() -> None:
    manifests = rendered(FULL)
    rules = manifests["NetworkPolicy"]["spec"]["ingress"]
    assert [[port["port"] for port in rule["ports"]] for rule in rules] == [["grpc"], ["tocsin-metrics"]]
    assert "from" not in rules[0] and rules[1]["from"]
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_dashboards_come_as_they_are() -> None:
    assert "Dashboards" not in rendered(SMALL)
    dashboards = rendered(FULL)["Dashboards"]
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    for name, text in dashboards["data"].items():
        assert json.loads(text) == json.loads((CHART / "dashboards" / name).read_text())


def test_rules_for_grafana_come_as_they_are() -> None:
    assert "GrafanaRules" not in rendered(SMALL)
    rules = rendered(FULL)["GrafanaRules"]
    assert rules["metadata"]["labels"]["grafana_alert"] == "1"
    (text,) = rules["data"].values()
    assert yaml.safe_load(text) == yaml.safe_load(FULL["grafanaRules"]["file"])
    with pytest.raises(Exception, match="tocsin rules --kind grafana"):
        rendered({**SMALL, "grafanaRules": {"enabled": True}})


def test_a_changed_configuration_starts_new_pods() -> None:
    def checksum(mode: str) -> str:
        values = {**SMALL, "tocsin": {**SMALL["tocsin"], "mode": mode}}
        return str(rendered(values)["Deployment"]["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum("observe") == checksum("observe") != checksum("annotate")


def test_a_gateway_is_the_relay_alone() -> None:
    manifests = rendered(GATEWAY)
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert [container["name"] for container in pod["containers"]] == ["tocsin"] and "initContainers" not in pod
    assert "replicas" not in manifests["Deployment"]["spec"]
    scaler = manifests["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == manifests["Deployment"]["metadata"]["name"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 30)
    config = yaml.safe_load(manifests["ConfigMap"]["data"]["tocsin.yaml"])
    assert config["upstream"] == "triton.models:8001"
    with pytest.raises(helm.HelmError, match=r"gateway\.upstream"):
        rendered({**GATEWAY, "gateway": {}})


def test_a_processor_is_a_deployment_that_gateways_ask(tmp_path: Path) -> None:
    manifests = rendered(PROCESSOR)
    container = manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "grpc", "containerPort": 9002} in container["ports"]
    (port,) = manifests["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"], port["appProtocol"]) == (9002, "grpc", "kubernetes.io/h2c")
    text = manifests["ConfigMap"]["data"]["tocsin.yaml"]
    (tmp_path / "tocsin.yaml").write_text(text)
    config = Config.load(tmp_path / "tocsin.yaml")
    assert str(config.ext_proc) == "0.0.0.0:9002" and not config.every_listener
    assert config.ext_proc_metadata == "tocsin"
    secure = rendered(having(PROCESSOR, tls={"enabled": True, "clients": True}))
    settings = yaml.safe_load(secure["ConfigMap"]["data"]["tocsin.yaml"])
    assert settings["ext_proc_tls"]["client_ca"] == "/etc/tocsin-tls/ca.crt" and "tls" not in settings
    assert secure["Service"]["spec"]["ports"][0]["appProtocol"] == "https"
    retries = rendered({**PROCESSOR, "gateway": {"upstream": "vllm.models:8000"}})
    assert "upstream: vllm.models:8000" in retries["ConfigMap"]["data"]["tocsin.yaml"]
    template = rendered({**PROCESSOR, "kind": "template"})  # its container is for the gateway's own pods
    assert "ext_proc: 0.0.0.0:9002" in template["ConfigMap"]["data"]["tocsin.yaml"] and "Deployment" not in template
    for change, message in (
        ({"kind": "sidecar", "model": SMALL["model"]}, r"extProc\.enabled"),
        ({"extProc": {"enabled": True, "port": 9464}}, r"extProc\.port"),
        ({"tocsin": {**PROCESSOR["tocsin"], "settings": {"listeners": []}}}, "listeners"),
        ({"tocsin": {**PROCESSOR["tocsin"], "settings": {"ext_proc": "a:1"}}}, r"settings\.ext_proc"),
    ):
        with pytest.raises(helm.HelmError, match=message):
            rendered({**PROCESSOR, **change})


def test_bundles_are_fetched_before_the_relay_starts() -> None:
    pod = rendered(EVERYTHING)["Deployment"]["spec"]["template"]["spec"]
    fetching, tocsin = pod["initContainers"]
    source = "oci://registry/models/digits:v1"
    assert fetching["args"] == ["tocsin", "bundle", "fetch", source, "/bundles/digits.tocsin", "--digest", DIGEST]
    assert fetching["envFrom"] == [{"secretRef": {"name": "store"}}] and "restartPolicy" not in fetching
    assert tocsin["restartPolicy"] == "Always"
    assert {"name": "tocsin-bundles", "emptyDir": {"sizeLimit": "2Gi"}} in pod["volumes"]
    options = imported("bundle").commands["fetch"].make_context("fetch", fetching["args"][3:]).params
    assert options["source"] == source and options["digest"] == DIGEST


def test_tls_and_state_come_from_secrets(tmp_path: Path) -> None:
    manifests = rendered(EVERYTHING)
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    mounted = {mount["name"]: mount["mountPath"] for mount in pod["initContainers"][1]["volumeMounts"]}
    assert mounted["tocsin-tls"] == "/etc/tocsin-tls" and mounted["tocsin-state"] == "/etc/tocsin-state"
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    assert secrets == {"tocsin-tls": "digits-tls", "tocsin-state": "redis"}
    assert manifests["Certificate"]["spec"]["secretName"] == "digits-tls"
    assert "digits.models.svc" in manifests["Certificate"]["spec"]["dnsNames"]
    (tmp_path / "tocsin.yaml").write_text(manifests["ConfigMap"]["data"]["tocsin.yaml"])
    config = Config.load(tmp_path / "tocsin.yaml")
    assert config.tls is not None and str(config.tls.client_ca) == "/etc/tocsin-tls/ca.crt"
    assert config.state is not None and str(config.state.password) == "/etc/tocsin-state/password"
    with pytest.raises(helm.HelmError, match=r"tocsin\.tls\.enabled"):
        rendered({**SMALL, "certificate": {"enabled": True, "issuerRef": {"name": "x"}}})


def test_alerts_come_as_tocsin_rules_writes_them(bundle: Path, tmp_path: Path) -> None:
    config = tmp_path / "tocsin.yaml"
    model = {"bundle": str(bundle), "signals": DIGITS["signals"]}
    config.write_text(yaml.safe_dump({"listen": "127.0.0.1:1", "upstream": "127.0.0.1:2", "models": {"digits": model}}))
    run = CliRunner()
    values = yaml.safe_load(run.invoke(app, ["rules", "-c", str(config), "--kind", "values", "--label", "a=b"]).stdout)
    rule = rendered({**SMALL, **values})["PrometheusRule"]
    plain = yaml.safe_load(run.invoke(app, ["rules", "-c", str(config)]).stdout)
    assert rule["spec"] == plain and rule["metadata"]["labels"]["a"] == "b"


def test_the_probe_of_a_helm_test_asks_the_service() -> None:
    manifests = rendered(SMALL)
    assert manifests["Test"]["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (name, port) = manifests["Service"]["metadata"]["name"], manifests["Service"]["spec"]["ports"][0]["port"]
    code = manifests["Test"]["spec"]["containers"][0]["args"][2]
    assert f"'{name}:{port}'" in code
    labels = manifests["Test"]["metadata"]["labels"]
    assert not manifests["Service"]["spec"]["selector"].items() <= labels.items()  # it is no replica
    listening = grpc.server(futures.ThreadPoolExecutor(1))
    bound = listening.add_insecure_port("127.0.0.1:0")
    listening.start()
    subprocess.run([sys.executable, "-c", code.replace(f"{name}:{port}", f"127.0.0.1:{bound}")], check=True, timeout=60)
    listening.stop(None)
    secure = rendered(EVERYTHING)["Test"]["spec"]["containers"][0]["args"][2]
    compile(secure, "test", "exec")


def test_a_parent_chart_takes_the_container_into_its_own_pods(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(CHART, parent / "charts" / "tocsin")
    (parent / "templates").mkdir()
    (parent / "Chart.yaml").write_text("apiVersion: v2\nname: parent\nversion: 0.1.0\n")
    (parent / "values.yaml").write_text(yaml.safe_dump({"tocsin": {
        "kind": "template", "model": {"port": 9000}, "tocsin": {**SMALL["tocsin"]},
    }}))  # fmt: skip
    (parent / "templates" / "deployment.yaml").write_text("""
apiVersion: apps/v1
kind: Deployment
metadata: {name: own}
spec:
  selector: {matchLabels: {app: own}}
  template:
    metadata: {labels: {app: own}}
    spec:
      containers:
        - {name: own, image: own}
        {{- include "tocsin.container" .Subcharts.tocsin | nindent 8 }}
      volumes:
        {{- include "tocsin.volumes" .Subcharts.tocsin | nindent 8 }}
""")
    manifests = rendered({}, parent)
    assert set(manifests) == {"ConfigMap", "Deployment"}
    kubernetes_validate.validate(manifests["Deployment"], "1.32", strict=True)
    spec = manifests["Deployment"]["spec"]["template"]["spec"]
    usual = rendered(SMALL)["Deployment"]["spec"]["template"]["spec"]
    assert spec["containers"][1] == usual["containers"][1] and spec["volumes"] == usual["volumes"]
    assert "upstream: 127.0.0.1:9000" in manifests["ConfigMap"]["data"]["tocsin.yaml"]


def test_containers_wait_before_they_end_or_do_as_they_are_told() -> None:
    for values in (SMALL, GATEWAY):
        for container in rendered(values)["Deployment"]["spec"]["template"]["spec"]["containers"]:
            assert container["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    lifecycle = {"preStop": {"sleep": {"seconds": 7}}}
    values = {**having(SMALL, lifecycle=lifecycle), "model": {**SMALL["model"], "lifecycle": lifecycle}}
    manifests = rendered(values)["Deployment"]
    kubernetes_validate.validate(manifests, "1.32", strict=True)
    assert [container["lifecycle"] for container in manifests["spec"]["template"]["spec"]["containers"]] == [
        lifecycle,
        lifecycle,
    ]
    none = {**having(SMALL, drainDelay="4s"), "preStopSeconds": 0}
    manifests = rendered(none)
    assert not any(
        "lifecycle" in container for container in manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    )
    assert yaml.safe_load(manifests["ConfigMap"]["data"]["tocsin.yaml"])["drain_delay"] == "4s"


def test_addresses_may_be_of_ipv6(tmp_path: Path) -> None:
    manifests = rendered({**having(GATEWAY, address="[::]"), "gateway": {"upstream": "[fd00::1]:8001"}})
    (tmp_path / "tocsin.yaml").write_text(manifests["ConfigMap"]["data"]["tocsin.yaml"])
    config = Config.load(tmp_path / "tocsin.yaml")
    assert (str(config.listen), str(config.metrics)) == ("[::]:8001", "[::]:9464")
    assert str(config.upstream) == "[fd00::1]:8001"


def test_bundles_come_from_a_config_map_of_the_releases_name_unless_told() -> None:
    manifests = rendered(having(SMALL, bundles={}))
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert {"name": "tocsin-bundles", "configMap": {"name": "digits-bundles"}} in pod["volumes"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][1]["volumeMounts"]}
    assert mounts["tocsin-bundles"] == "/bundles"
    mounted = {"volumeMounts": [{"name": "mine", "mountPath": "/bundles"}], "bundles": {}}
    pod = rendered({**having(SMALL, **mounted), "volumes": [{"name": "mine", "emptyDir": {}}]})["Deployment"]
    assert "tocsin-bundles" not in json.dumps(pod)
    assert "/bundles" not in json.dumps(rendered(having(SMALL, bundles={}, models={"a": {"protocol": "vllm"}})))


def test_the_service_says_what_the_relay_speaks() -> None:
    for values, protocol in ((SMALL, "kubernetes.io/h2c"), (having(SMALL, tls={"enabled": True}), "https")):
        assert rendered(values)["Service"]["spec"]["ports"][0]["appProtocol"] == protocol


def test_models_may_have_every_setting_that_the_relay_knows() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    models = schema["properties"]["tocsin"]["properties"]["models"]["additionalProperties"]
    assert set(models["properties"]) == set(ModelConfig.model_fields)
    signals = {
        "p": "response.outputs.p", "risk": "metadata.x-risk", "early": "initial_metadata.x-risk",
        "late": "trailing_metadata.x-risk", "before": {"previous": "p"},
    }  # fmt: skip
    more = {"signals": signals, "in_turn": True, "batched": {"p": False}, "second_opinion": {"share": 0.05}}
    written = yaml.safe_load(
        rendered(having(SMALL, models={"digits": DIGITS | more}))["ConfigMap"]["data"]["tocsin.yaml"]
    )
    assert more.items() <= written["models"]["digits"].items()


def test_readiness_may_be_what_the_model_server_says() -> None:
    tocsin = rendered(having(SMALL, readiness="grpc"))["Deployment"]["spec"]["template"]["spec"]["containers"][1]
    assert tocsin["readinessProbe"]["grpc"] == {"port": 8001}
