"""Claims about `tocsin inject`: valid manifests, callers led through the sidecar, and the same when done again."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.kubernetes.files import WAYS, setting_holders

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


@pytest.mark.parametrize("version", ["1.29", "1.32", "1.34"])
@pytest.mark.parametrize("native", [True, False])
def test_what_comes_out_fits_kubernetes_schemas(tmp_path: Path, version: str, native: bool) -> None:
    options = ["--bundles", "configmap:digits-bundles", *([] if native else ["--plain"])]
    injected = documents(run(tmp_path, manifests(DEPLOYMENT, SERVICE, UNRELATED), *options).stdout)
    for manifest in injected.values():
        kubernetes_validate.validate(manifest, version, strict=True)
    spec = injected["Deployment/digits"]["spec"]["template"]["spec"]
    where = spec["initContainers"] if native else spec["containers"]
    (sidecar,) = [container for container in where if container["name"] == "tocsin"]
    assert sidecar.get("restartPolicy") == ("Always" if native else None)
    assert {volume["name"] for volume in spec["volumes"]} == {"scratch", "tocsin-config", "tocsin-bundles"}
    assert spec["terminationGracePeriodSeconds"] > Config.load(tmp_path / "tocsin.yaml").drain.total_seconds()


def test_callers_of_the_service_come_through_the_sidecar_and_others_as_before(tmp_path: Path) -> None:
    done = run(tmp_path, manifests(DEPLOYMENT, SERVICE, UNRELATED))
    injected = documents(done.stdout)
    grpc, http = injected["Service/digits"]["spec"]["ports"]
    assert grpc["targetPort"] == "tocsin" and "targetPort" not in http
    assert injected["Service/web"] == UNRELATED
    assert "Deployment digits: tocsin stands in front of port 9000" in done.stderr
    assert "Service digits: port 9000 leads to tocsin" in done.stderr


def test_the_configuration_inside_is_one_that_tocsin_reads(tmp_path: Path) -> None:
    injected = documents(run(tmp_path, manifests(DEPLOYMENT), "--bundles", "pvc:bundles").stdout)
    written = injected["ConfigMap/digits-tocsin"]
    assert written["metadata"]["namespace"] == "models"
    (tmp_path / "inside.yaml").write_text(written["data"]["tocsin.yaml"])
    config = Config.load(tmp_path / "inside.yaml")
    assert (str(config.listen), str(config.upstream), str(config.metrics)) == (
        "0.0.0.0:8001", "127.0.0.1:9000", "0.0.0.0:9464",
    )  # fmt: skip
    assert str(config.models["digits"].bundle) == "/bundles/digits.tocsin"
    assert str(config.models["digits"].shadow) == "/bundles/next.tocsin"


def test_doing_it_again_changes_nothing_and_another_way_replaces_the_first(tmp_path: Path) -> None:
    once = run(tmp_path, manifests(DEPLOYMENT, SERVICE)).stdout
    assert documents(run(tmp_path, once).stdout) == documents(once)
    plain = documents(run(tmp_path, once, "--plain").stdout)["Deployment/digits"]["spec"]["template"]["spec"]
    assert [container["name"] for container in plain["containers"]] == ["model", "other", "tocsin"]
    assert "initContainers" not in plain


def test_a_list_as_kubectl_prints_it_is_read(tmp_path: Path) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [DEPLOYMENT, SERVICE]}
    assert set(documents(run(tmp_path, manifests(listed)).stdout)) == {
        "Deployment/digits", "Service/digits", "ConfigMap/digits-tocsin",
    }  # fmt: skip


def test_what_cannot_be_done_is_told(tmp_path: Path) -> None:
    assert "no workload with a container port 9000" in str(run(tmp_path, manifests(SERVICE), code=1).exception)
    assert "is not YAML" in str(run(tmp_path, "a: [", code=1).exception)
    wrong = run(tmp_path, manifests(DEPLOYMENT), "--bundles", "s3://bucket", code=1)
    assert "expected configmap:NAME" in str(wrong.exception)


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
FALLBACK = {"upstream": "fallback:9000", "tls": {"ca": "fallback.pem", "certificate": "f.crt", "key": "f.key"}}


def with_files() -> dict[str, Any]:
    model = {**CONFIG["models"]["digits"], "fallback": FALLBACK}
    listener = {
        "listen": "127.0.0.1:8002",
        "upstream": "127.0.0.1:9001",
        "tls": {"certificate": "l.crt", "key": "l.key"},
    }
    return {**CONFIG, **FILES, "models": {"digits": model}, "listeners": [listener]}


def test_every_setting_that_names_a_file_has_a_way_into_the_pod() -> None:
    def paths(model: type[BaseModel], where: str, parents: tuple[Any, ...]) -> set[str]:
        settings_of_paths = set()
        for name, field in model.model_fields.items():
            for kind in flat(field.annotation):
                more = "*." if is_of_many(field.annotation) else ""
                if kind is Path or name == "descriptors":
                    settings_of_paths.add(f"{where}{name}")
                elif isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in parents:
                    settings_of_paths |= paths(kind, f"{where}{name}.{more}", (*parents, kind))
        return settings_of_paths

    def flat(annotation: Any) -> set[Any]:
        inside = getattr(annotation, "__args__", ())
        return {annotation}.union(*(flat(part) for part in inside)) if inside else {annotation}

    def is_of_many(annotation: Any) -> bool:
        return getattr(annotation, "__origin__", None) in (dict, list)

    assert paths(Config, "", ()) == set(WAYS)


def test_files_come_into_the_pod_or_it_is_told_how(tmp_path: Path) -> None:
    message = refused(tmp_path, manifests(DEPLOYMENT), "--plain", config=with_files())
    assert "protocols.own.descriptors" in message and "own.binpb cannot be read" in message
    assert "kubectl create secret generic tocsin" in message and "--from-file=tls.key=tls/tls.key" in message
    (tmp_path / "own.binpb").write_bytes(b"\x0a\x00descriptors")
    options = ("--secret", "digits-files", "--secret", "digits-tls")
    done = run(tmp_path, manifests(DEPLOYMENT, SERVICE), *options, config=with_files())
    injected = documents(done.stdout)
    fits(injected)
    (sidecar,) = pod(injected)["initContainers"]
    mounts = {mount["name"]: mount for mount in sidecar["volumeMounts"]}
    assert {mount["mountPath"] for mount in mounts.values()} == {
        "/etc/tocsin", "/bundles", "/etc/tocsin-secrets", "/var/lib/tocsin",
    }  # fmt: skip
    assert "readOnly" not in mounts["tocsin-data"]
    volumes = {volume["name"]: volume for volume in pod(injected)["volumes"]}
    sources = volumes["tocsin-secrets"]["projected"]["sources"]
    assert [source["secret"]["name"] for source in sources] == ["digits-files", "digits-tls"]
    assert volumes["tocsin-data"]["emptyDir"] == {}
    carried = injected["ConfigMap/digits-tocsin"]["binaryData"]
    assert base64.b64decode(carried["own.binpb"]) == (tmp_path / "own.binpb").read_bytes()

    (tmp_path / "etc").mkdir()
    inside = tmp_path / "etc" / "tocsin.yaml"
    inside.write_text(injected["ConfigMap/digits-tocsin"]["data"]["tocsin.yaml"])
    config = Config.load(inside)
    assert config.protocols["own"].descriptors == str(tmp_path / "etc" / "own.binpb")  # beside it, as ConfigMaps are
    assert config.tls is not None and str(config.tls.key) == "/etc/tocsin-secrets/tls.key"
    assert config.listeners[0].tls is not None and str(config.listeners[0].tls.key) == "/etc/tocsin-secrets/l.key"
    assert config.events is not None and str(config.events.spool) == "/var/lib/tocsin/spool"
    assert str(config.models["digits"].fallback.tls.ca) == "/etc/tocsin-secrets/fallback.pem"  # type: ignore[union-attr]
    for pattern in WAYS:
        for holder, key, where in setting_holders(yaml.safe_load(inside.read_text()), pattern.split(".")):
            assert holder[key].startswith(("/bundles/", "/etc/tocsin-secrets/", "/var/lib/tocsin/", "own.binpb")), where
    again = run(tmp_path, done.stdout, *options, config=with_files())
    assert documents(again.stdout) == injected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"listen": "0.0.0.0:9000"}, "9000"),
        ({"metrics": "0.0.0.0:8080"}, "metrics: port 8080 is taken in Deployment digits, by its container other"),
        ({"admin": "127.0.0.1:8080"}, "admin: port 8080 is taken"),
        ({"listen": "0.0.0.0:8080"}, "listen: port 8080 is taken"),
        ({"upstream": "digits.models:9000"}, "is not inside the pod"),
        ({"upstream": "unix:/run/model.sock"}, "inside a pod both are HOST:PORT"),
        ({"state": {"redis": "unix:///run/redis.sock"}}, "state.redis"),
        ({"admin_token": "tls/token", "opentelemetry": {"headers": "otlp/token"}}, "as another file is: rename one"),
        ({"admin_token": "a token"}, "'a token' cannot be a key"),
        (
            {"protocols": {"own": {"reflection": True, "methods": {"/a.B/C": {}}}}},
            "protocols.own.reflection: a native sidecar starts before the model server",
        ),
    ],
)
def test_what_a_pod_could_not_start_with_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    deployment = copy.deepcopy(DEPLOYMENT)
    deployment["spec"]["template"]["spec"]["containers"][1]["ports"] = [{"containerPort": 8080}]
    options = ("--secret", "files")
    assert message in refused(tmp_path, manifests(deployment), *options, config={**CONFIG, **change})


def test_bundles_need_a_source_and_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "tocsin.yaml").write_text(yaml.safe_dump(CONFIG))
    words = ["inject", "-", "-c", str(tmp_path / "tocsin.yaml")]
    done = CliRunner().invoke(app, words, input=manifests(DEPLOYMENT))
    message = str(done.exception)
    assert isinstance(done.exception, ConfigError) and not done.stdout
    assert "models.digits.bundle" in message and "--from-file=made/digits.tocsin" in message and "--bundles" in message
    alike = {**CONFIG["models"]["digits"], "shadow": "next/digits.tocsin"}
    message = refused(tmp_path, manifests(DEPLOYMENT), config={**CONFIG, "models": {"digits": alike}})
    assert "models.digits.shadow" in message and "/bundles/digits.tocsin" in message


def test_reflection_is_for_plain_sidecars_which_start_again_until_it_answers(tmp_path: Path) -> None:
    protocols = {"own": {"reflection": True, "methods": {"/a.B/C": {}}}}
    done = run(tmp_path, manifests(DEPLOYMENT), "--plain", config={**CONFIG, "protocols": protocols})
    assert "until the model server answers" in done.stderr


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


@pytest.mark.parametrize("name", ["listen", "metrics"])
def test_addresses_of_ipv6_stay_so(name: str, tmp_path: Path) -> None:
    config = {**CONFIG, name: "[::]:8123", "upstream": "[::1]:9000"}
    inside = configuration(documents(run(tmp_path, manifests(DEPLOYMENT), config=config).stdout))
    assert inside["upstream"] == "[::1]:9000"
    assert inside["listen"].startswith("[::]:") and inside["metrics"].startswith("[::]:")  # kubelet and callers alike


def test_a_services_protocol_is_what_the_relay_speaks(tmp_path: Path) -> None:
    (tmp_path / "own.binpb").write_bytes(b"")
    port = {"port": 9000, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"}
    plain = run(tmp_path, manifests(DEPLOYMENT, changed(SERVICE, ports=[port])))
    assert documents(plain.stdout)["Service/digits"]["spec"]["ports"][0]["appProtocol"] == "kubernetes.io/h2c"
    config = {**CONFIG, "tls": FILES["tls"]}
    secure = run(tmp_path, manifests(DEPLOYMENT, changed(SERVICE, ports=[port])), "--secret", "x", config=config)
    assert documents(secure.stdout)["Service/digits"]["spec"]["ports"][0]["appProtocol"] == "https"
    assert "appProtocol kubernetes.io/h2c is https now" in secure.stderr


def test_the_configuration_is_text_that_people_read(tmp_path: Path) -> None:
    text = run(tmp_path, manifests(DEPLOYMENT)).stdout
    assert "  tocsin.yaml: |\n" in text and "\n    models:\n" in text
    assert "&id" not in text and "*id" not in text


@pytest.mark.parametrize(
    ("kind", "version", "reason"),
    [
        ("InferenceService", "serving.kserve.io/v1beta1", "spec.predictor.model leaves its container"),
        ("LLMInferenceService", "serving.kserve.io/v1alpha2", "whose arguments do not name it"),
        ("ServingRuntime", "serving.kserve.io/v1alpha1", "spec.predictor.containers"),
        ("Service", "serving.knative.dev/v1", "Knative"),
    ],
)
def test_kinds_that_others_make_pods_of_are_refused_with_the_reason(
    kind: str, version: str, reason: str, tmp_path: Path
) -> None:
    foreign = {**copy.deepcopy(DEPLOYMENT), "kind": kind, "apiVersion": version}
    if kind == "LLMInferenceService":
        foreign["spec"] = {"template": foreign["spec"]["template"]["spec"]}
    message = refused(tmp_path, manifests(foreign))
    assert f"{kind} digits" in message and reason in message


def test_a_rollout_of_argo_gets_the_sidecar_as_a_deployment_does(tmp_path: Path) -> None:
    strategy = {"canary": {"canaryService": "digits", "stableService": "digits", "steps": [{"setWeight": 10}]}}
    rollout = copy.deepcopy({**DEPLOYMENT, "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout"})
    rollout["spec"]["strategy"] = strategy
    done = documents(run(tmp_path, manifests(rollout, SERVICE)).stdout)
    usual = documents(run(tmp_path, manifests(DEPLOYMENT, SERVICE)).stdout)
    injected = done["Rollout/digits"]
    assert injected["spec"]["template"] == usual["Deployment/digits"]["spec"]["template"]
    assert injected["spec"]["strategy"] == strategy and done["Service/digits"] == usual["Service/digits"]
    again = documents(run(tmp_path, yaml.safe_dump_all(done.values())).stdout)
    assert again == done
    rollout["spec"] = {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits"}}
    assert "spec.workloadRef: inject that" in refused(tmp_path, manifests(rollout))


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


def test_the_model_server_that_would_end_too_soon_is_told(tmp_path: Path) -> None:
    config = {**CONFIG, "drain": "40s", "drain_delay": "7s"}
    done = run(tmp_path, manifests(DEPLOYMENT), config=config)
    assert (
        "container model gets SIGTERM while callers still come: give it a preStop hook that sleeps for 7 s"
        in done.stderr
    )
    assert pod(documents(done.stdout))["terminationGracePeriodSeconds"] > 47
    patient = serving(lifecycle={"preStop": {"sleep": {"seconds": 7}}})
    assert "preStop" not in run(tmp_path, manifests(patient), config=config).stderr


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


def test_a_job_ends_only_beside_a_native_sidecar(tmp_path: Path) -> None:
    job = {
        **DEPLOYMENT,
        "kind": "Job",
        "apiVersion": "batch/v1",
        "spec": {"template": copy.deepcopy(DEPLOYMENT["spec"]["template"])},
    }
    job["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    cron = {"schedule": "@daily", "jobTemplate": {"spec": job["spec"]}}
    for document in (job, {**job, "kind": "CronJob", "spec": cron}):
        fits(documents(run(tmp_path, manifests(document)).stdout))
        assert "a plain sidecar never ends" in refused(tmp_path, manifests(document), "--plain")
