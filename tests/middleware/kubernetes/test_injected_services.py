"""Claims about `tocsin inject` and Services: callers come through the sidecar by each, or the command says so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.middleware.kubernetes.injection import (
    CONFIG,
    DEPLOYMENT,
    FILES,
    LABELS,
    SERVICE,
    changed,
    configuration,
    documents,
    fits,
    manifests,
    pod,
    refused,
    run,
    serving,
)

from tocsin.configuration.config import Config

HEADLESS = changed(SERVICE, clusterIP="None")


@pytest.mark.parametrize(
    "container",
    [
        {"args": ["--grpc-port=9000", "--http-port", "8080"]},
        {"args": ["--grpc-port", "9000"]},
        {"command": ["serve", "--port", "9000"], "args": []},
        {"env": [{"name": "MLSERVER_GRPC_PORT", "value": "9000"}]},
    ],
)
def test_callers_of_a_headless_service_meet_the_sidecar_at_their_port(
    container: dict[str, Any], tmp_path: Path
) -> None:
    deployment = serving(**container, readinessProbe={"grpc": {"port": 9000}})
    done = run(tmp_path, manifests(deployment, HEADLESS))
    injected = documents(done.stdout)
    fits(injected)
    model, _ = pod(injected)["containers"]
    words = str([model.get("command"), model.get("args"), model.get("env")])
    assert "9000" not in words and "8001" in words
    assert model["ports"][0]["containerPort"] == model["readinessProbe"]["grpc"]["port"] == 8001
    (sidecar,) = pod(injected)["initContainers"]
    assert sidecar["ports"][0] == {"name": "tocsin", "containerPort": 9000}
    inside = configuration(injected)
    assert inside["listen"] == "0.0.0.0:9000" and inside["upstream"] == "127.0.0.1:8001"
    assert injected["Service/digits"]["spec"]["ports"][0]["targetPort"] == "tocsin"
    assert "is headless, so tocsin listens on the model server's port 9000" in done.stderr
    assert documents(run(tmp_path, done.stdout).stdout) == injected
    normal = documents(
        run(tmp_path, manifests(injected["Deployment/digits"], SERVICE)).stdout
    )  # the Service has an address by now
    assert pod(normal)["containers"][0] == {**deployment["spec"]["template"]["spec"]["containers"][0]}


@pytest.mark.parametrize("words", [[], ["--other=9000"], ["--grpc-port=9000", "--metrics-port=8001"]])
def test_a_headless_service_whose_model_server_cannot_be_moved_is_told(words: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, manifests(serving(*words), HEADLESS))
    assert documents(done.stdout)["Service/digits"] == HEADLESS
    assert "Service digits: is headless, and its callers connect to port 9000 of the pods, past tocsin" in done.stderr
    assert "leads to tocsin\n" not in done.stderr
    moved = {**CONFIG, "listen": "0.0.0.0:9000", "upstream": "127.0.0.1:9001"}
    done = run(tmp_path, manifests(serving(port=9001), HEADLESS), config=moved)  # as it was told
    assert "is headless" not in done.stderr and "leads to tocsin" in done.stderr


def test_two_services_of_a_namespace_have_each_their_configuration(tmp_path: Path) -> None:
    first = documents(run(tmp_path, manifests(DEPLOYMENT)).stdout)
    other = copy.deepcopy(DEPLOYMENT)
    other["metadata"]["name"] = "letters"
    second = documents(run(tmp_path, manifests(other), config={**CONFIG, "mode": "observe"}).stdout)
    assert not {name for name in first if name.startswith("ConfigMap")} & set(second)
    for injected, name in ((first, "digits"), (second, "letters")):
        assert {"name": "tocsin-config", "configMap": {"name": f"{name}-tocsin"}} in pod(injected, name)["volumes"]
    named = documents(run(tmp_path, manifests(DEPLOYMENT), "--config-map", "mine").stdout)
    assert "ConfigMap/mine" in named
    foreign = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "mine", "namespace": "models"},
        "data": {"a": "b"},
    }
    assert "holds something else" in refused(tmp_path, manifests(DEPLOYMENT, foreign), "--config-map", "mine")


def test_a_service_of_another_namespace_is_left_alone(tmp_path: Path) -> None:
    elsewhere = {**SERVICE, "metadata": {"name": "digits", "namespace": "staging"}}
    done = run(tmp_path, manifests(DEPLOYMENT, elsewhere))
    assert documents(done.stdout)["Service/digits"] == elsewhere
    assert "no Service here leads to tocsin" in done.stderr


def test_every_listener_has_its_port_and_its_service(tmp_path: Path) -> None:
    deployment = copy.deepcopy(DEPLOYMENT)
    deployment["spec"]["template"]["spec"]["containers"][1]["ports"] = [{"name": "more", "containerPort": 9001}]
    more = {**SERVICE, "metadata": {"name": "more", "namespace": "models"}}
    more = changed(more, ports=[{"port": 80, "targetPort": "more"}])
    config = {**CONFIG, "listeners": [{"listen": "127.0.0.1:8002", "upstream": "127.0.0.1:9001"}]}
    injected = documents(run(tmp_path, manifests(deployment, SERVICE, more), config=config).stdout)
    fits(injected)
    (sidecar,) = pod(injected)["initContainers"]
    assert [port["containerPort"] for port in sidecar["ports"]] == [8001, 8002, 9464]
    assert injected["Service/digits"]["spec"]["ports"][0]["targetPort"] == "tocsin"
    assert injected["Service/more"]["spec"]["ports"][0]["targetPort"] == "tocsin-2"
    assert configuration(injected)["listeners"] == [{"listen": "0.0.0.0:8002", "upstream": "127.0.0.1:9001"}]


def test_a_services_protocol_is_what_the_relay_speaks(tmp_path: Path) -> None:
    (tmp_path / "own.binpb").write_bytes(b"")
    port = {"port": 9000, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"}
    plain = run(tmp_path, manifests(DEPLOYMENT, changed(SERVICE, ports=[port])))
    assert documents(plain.stdout)["Service/digits"]["spec"]["ports"][0]["appProtocol"] == "kubernetes.io/h2c"
    config = {**CONFIG, "tls": FILES["tls"]}
    secure = run(tmp_path, manifests(DEPLOYMENT, changed(SERVICE, ports=[port])), "--secret", "x", config=config)
    assert documents(secure.stdout)["Service/digits"]["spec"]["ports"][0]["appProtocol"] == "https"
    assert "appProtocol kubernetes.io/h2c is https now" in secure.stderr


def test_callers_of_an_inference_service_are_led_through_the_relay(tmp_path: Path) -> None:
    container = {"name": "kserve-container", "image": "model:1", "ports": [{"name": "h2c", "containerPort": 9000}]}
    service: dict[str, Any] = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": "digits", "namespace": "models"},
        "spec": {"predictor": {"minReplicas": 2, "containers": [container]}},
    }  # fmt: skip
    first = run(tmp_path, manifests(service))
    done = documents(first.stdout)
    predictor = done["InferenceService/digits"]["spec"]["predictor"]
    server, relay = predictor["containers"]
    assert "ports" not in server  # KServe leads callers to the one container that declares a port
    assert relay["name"] == "transformer-container" and "restartPolicy" not in relay
    assert relay["ports"] == [{"name": "h2c", "containerPort": 8001, "protocol": "TCP"}]
    assert relay["readinessProbe"]["httpGet"]["port"] == 9464 and "initContainers" not in predictor
    template = {"metadata": {"labels": LABELS}, "spec": {key: predictor[key] for key in ("containers", "volumes")}}
    deployment = {**DEPLOYMENT, "spec": {"selector": {"matchLabels": LABELS}, "template": template}}
    kubernetes_validate.validate(deployment, "1.32", strict=True)  # the pod that KServe makes of it
    assert "tocsin/config" in predictor["annotations"] and "ConfigMap/digits-tocsin" in done
    assert "no Service here leads" not in first.stderr
    assert documents(run(tmp_path, yaml.safe_dump_all(done.values())).stdout) == done
    occupied = copy.deepcopy(service)
    occupied["spec"]["predictor"]["containers"].append({"name": "transformer-container", "image": "own:1"})
    assert "has a transformer-container already" in refused(tmp_path, manifests(occupied))
    runtime = {**service, "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}}}}}
    assert "spec.predictor.model leaves its container" in refused(tmp_path, manifests(runtime))


def test_callers_of_an_llm_inference_service_come_to_the_port_that_they_know(tmp_path: Path) -> None:
    container = {"name": "main", "image": "vllm:1", "args": ["--port", "9000"], "ports": [{"containerPort": 9000}]}
    service = {
        "apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService",
        "metadata": {"name": "chat", "namespace": "models"},
        "spec": {"model": {"uri": "hf://a/b"}, "replicas": 2, "template": {"containers": [container]}},
    }  # fmt: skip
    first = run(tmp_path, manifests(service))
    done = documents(first.stdout)
    spec = done["LLMInferenceService/chat"]["spec"]
    assert spec["template"]["containers"][0]["args"] == ["--port", "8001"]
    (relay,) = spec["template"]["initContainers"]
    assert relay["ports"][0]["containerPort"] == 9000 and "the model server was moved to 8001" in first.stderr
    config = yaml.safe_load(done["ConfigMap/chat-tocsin"]["data"]["tocsin.yaml"])
    assert (config["listen"], config["upstream"]) == ("0.0.0.0:9000", "127.0.0.1:8001")
    assert set(spec["annotations"]) == {"tocsin/config", "tocsin/moved"}
    assert documents(run(tmp_path, yaml.safe_dump_all(done.values())).stdout) == done
    bare = {**service, "spec": {"model": {"uri": "hf://a/b"}}}
    assert "comes from a base configuration" in refused(tmp_path, manifests(bare))


@pytest.mark.parametrize(("port", "shuts_out"), [(9000, True), ("grpc", True), ("tocsin", False), (8001, False)])
def test_a_network_policy_that_shuts_callers_out_is_told(port: int | str, shuts_out: bool, tmp_path: Path) -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "callers", "namespace": "models"},
        "spec": {"podSelector": {"matchLabels": LABELS}, "ingress": [{"ports": [{"port": port}]}]},
    }  # fmt: skip
    warnings = run(tmp_path, manifests(DEPLOYMENT, SERVICE, policy)).stderr
    assert ("NetworkPolicy callers: lets callers to port 9000 of the pods, past tocsin" in warnings) is shuts_out


def test_services_of_the_namespace_do_not_disturb_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes tells every container of every Service in environment variables, TOCSIN_METRICS_PORT among them."""
    inside = documents(run(tmp_path, manifests(DEPLOYMENT)).stdout)["ConfigMap/digits-tocsin"]["data"]["tocsin.yaml"]
    (tmp_path / "inside.yaml").write_text(inside)
    before = Config.load(tmp_path / "inside.yaml")
    for name in (
        "TOCSIN",
        "TOCSIN_METRICS",
        "TOCSIN_STATE",
        "TOCSIN_LIMITS",
        "TOCSIN_MODELS",
        "TOCSIN_TLS",
        "TOCSIN_LISTEN",
    ):
        for what, value in (
            ("SERVICE_HOST", "10.0.0.1"), ("SERVICE_PORT", "8001"), ("SERVICE_PORT_GRPC", "8001"),
            ("PORT", "tcp://10.0.0.1:8001"), ("PORT_8001_TCP", "tcp://10.0.0.1:8001"), ("PORT_8001_TCP_PROTO", "tcp"),
            ("PORT_8001_TCP_PORT", "8001"), ("PORT_8001_TCP_ADDR", "10.0.0.1"),
        ):  # fmt: skip
            monkeypatch.setenv(f"{name}_{what}", value)
    assert Config.load(tmp_path / "inside.yaml") == before
