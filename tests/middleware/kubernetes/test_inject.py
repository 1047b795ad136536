"""Claims about `tocsin inject`: valid manifests, callers led through the sidecar, and the same when done again."""

from __future__ import annotations

import copy
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from tests.middleware.kubernetes.injection import (
    CONFIG,
    DEPLOYMENT,
    SERVICE,
    UNRELATED,
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


def test_reflection_is_for_plain_sidecars_which_start_again_until_it_answers(tmp_path: Path) -> None:
    protocols = {"own": {"reflection": True, "methods": {"/a.B/C": {}}}}
    done = run(tmp_path, manifests(DEPLOYMENT), "--plain", config={**CONFIG, "protocols": protocols})
    assert "until the model server answers" in done.stderr


@pytest.mark.parametrize("name", ["listen", "metrics"])
def test_addresses_of_ipv6_stay_so(name: str, tmp_path: Path) -> None:
    config = {**CONFIG, name: "[::]:8123", "upstream": "[::1]:9000"}
    inside = configuration(documents(run(tmp_path, manifests(DEPLOYMENT), config=config).stdout))
    assert inside["upstream"] == "[::1]:9000"
    assert inside["listen"].startswith("[::]:") and inside["metrics"].startswith("[::]:")  # kubelet and callers alike


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
