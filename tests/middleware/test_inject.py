"""Claims about `tocsin inject`: valid manifests, callers led through the sidecar, and the same when done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.configuration.config import Config

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


def run(folder: Path, text: str, *options: str, code: int = 0) -> Any:
    (folder / "tocsin.yaml").write_text(yaml.safe_dump(CONFIG))
    done = CliRunner().invoke(app, ["inject", "-", "-c", str(folder / "tocsin.yaml"), *options], input=text)
    assert (done.exit_code == 0) == (code == 0), (done.output, done.exception)
    return done


def documents(text: str) -> dict[str, Any]:
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(text)}


def manifests(*parts: dict[str, Any]) -> str:
    return yaml.safe_dump_all(parts)


@pytest.mark.parametrize("version", ["1.29", "1.32", "1.34"])
@pytest.mark.parametrize("native", [True, False])
def test_what_comes_out_fits_kubernetes_schemas(tmp_path: Path, version: str, native: bool) -> None:
    options = ["--bundles", "configmap:digits-bundles", *([] if native else ["--plain"])]
    made = documents(run(tmp_path, manifests(DEPLOYMENT, SERVICE, UNRELATED), *options).stdout)
    for manifest in made.values():
        kubernetes_validate.validate(manifest, version, strict=True)
    spec = made["Deployment/digits"]["spec"]["template"]["spec"]
    where = spec["initContainers"] if native else spec["containers"]
    (sidecar,) = [one for one in where if one["name"] == "tocsin"]
    assert sidecar.get("restartPolicy") == ("Always" if native else None)
    assert {volume["name"] for volume in spec["volumes"]} == {"scratch", "tocsin-config", "tocsin-bundles"}
    assert spec["terminationGracePeriodSeconds"] > Config.load(tmp_path / "tocsin.yaml").drain.total_seconds()


def test_callers_of_the_service_come_through_the_sidecar_and_others_as_before(tmp_path: Path) -> None:
    done = run(tmp_path, manifests(DEPLOYMENT, SERVICE, UNRELATED))
    made = documents(done.stdout)
    grpc, http = made["Service/digits"]["spec"]["ports"]
    assert grpc["targetPort"] == "tocsin" and "targetPort" not in http
    assert made["Service/web"] == UNRELATED
    assert "Deployment digits: tocsin stands in front of port 9000" in done.stderr
    assert "Service digits: port 9000 leads to tocsin" in done.stderr


def test_the_configuration_inside_is_one_that_tocsin_reads(tmp_path: Path) -> None:
    made = documents(run(tmp_path, manifests(DEPLOYMENT), "--bundles", "pvc:bundles").stdout)
    written = made["ConfigMap/tocsin"]
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
    assert [one["name"] for one in plain["containers"]] == ["model", "other", "tocsin"]
    assert "initContainers" not in plain


def test_a_list_as_kubectl_prints_it_is_read(tmp_path: Path) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [DEPLOYMENT, SERVICE]}
    assert set(documents(run(tmp_path, manifests(listed)).stdout)) == {
        "Deployment/digits", "Service/digits", "ConfigMap/tocsin",
    }  # fmt: skip


def test_what_cannot_be_done_is_told(tmp_path: Path) -> None:
    assert "no workload with a container port 9000" in str(run(tmp_path, manifests(SERVICE), code=1).exception)
    assert "is not YAML" in str(run(tmp_path, "a: [", code=1).exception)
    wrong = run(tmp_path, manifests(DEPLOYMENT), "--bundles", "s3://bucket", code=1)
    assert "expected configmap:NAME" in str(wrong.exception)
