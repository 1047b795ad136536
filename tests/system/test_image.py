"""Claims about the image, which is built without a registry and run as the chart has it run (`make test-image`)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, SIGNALS, TRIES_AGAIN_SOON, far_away, free_port, inference, safe_traffic
from benchmarks.harness.redis_server import redis_server
from oras.client import OrasClient
from redis import Redis
from tests.containers import Container, Image, needed, opened
from tests.helm.chart import SMALL, rendered
from tests.oci_registry import registry

import tocsin
from tocsin.verdict import Verdict
from tocsin_calibration import Bundle

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
IMAGE = "localhost/tocsin-test:0.1.0"
SECURITY = rendered(SMALL)["Deployment"]["spec"]["template"]["spec"]["containers"][1]["securityContext"]
# The first test builds: half an hour where the compiler has to share a small machine.
pytestmark = [pytest.mark.image, pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def report() -> str:
    """What the build prints."""
    needed("buildah", "crun", "debootstrap")
    done = subprocess.run(
        [ROOT / "image" / "build-image", "debootstrap", IMAGE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def image(report: str) -> Iterator[Image]:
    with opened(IMAGE) as image:
        yield image


def run(image: Image, folder: Path, *command: str, **mounts: Any) -> subprocess.CompletedProcess[str]:
    return Container(image, command, SECURITY, **mounts).run(folder)


def test_the_image_adds_no_more_than_150_megabytes_to_its_base(report: str, image: Image) -> None:
    added, limit = re.findall(r"adds ([\d.]+) MB to the .* limit is (\d+) MB", report)[0]
    measured = sum(path.lstat().st_size for path in (image.root / "opt").rglob("*") if not path.is_dir()) / 1e6
    assert float(added) == pytest.approx(measured, abs=0.1)
    assert measured <= float(limit) == 150


def test_it_says_what_it_is(image: Image) -> None:
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in image.config["Labels"].items()}
    assert labels.keys() >= {"title", "description", "licenses", "version", "revision", "created", "base.name"}
    assert labels["version"] == IMAGE.rpartition(":")[2]
    assert image.config["User"] == f"{SECURITY['runAsUser']}:{SECURITY['runAsUser']}"


def test_nothing_in_it_builds_or_installs(image: Image, tmp_path: Path) -> None:
    folders = [image.root / folder for folder in ("opt/tocsin/bin", "usr/bin", "usr/local/bin")]
    programs = {path.name for folder in folders for path in folder.glob("*")}
    assert not programs & {"cc", "gcc", "g++", "ld", "make", "pip", "pip3"}
    for module in ("pip", "setuptools", "ensurepip"):
        assert "ModuleNotFoundError" in run(image, tmp_path, "python", "-c", f"import {module}").stdout, module
    done = run(image, tmp_path, "tocsin", "--version")
    version = yaml.safe_load((ROOT / "helm/tocsin/Chart.yaml").read_text())["appVersion"]
    assert done.stdout.startswith(f"tocsin {version} (compiled), ONNX Runtime"), done.stdout


def test_nobody_can_write_in_it(image: Image, tmp_path: Path) -> None:
    attempt = "for folder in / /opt/tocsin /tmp /var/tmp; do touch $folder/x && exit 1; done; id -u"
    done = run(image, tmp_path, "sh", "-c", attempt)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "65532", done.stdout


def test_its_contents_are_listed_with_their_licences(image: Image) -> None:
    bill = json.loads((image.root / "opt/tocsin/share/sbom.json").read_text())
    components = {component["name"]: component for component in bill["components"]}
    assert components["onnxruntime"]["purl"].startswith("pkg:pypi/onnxruntime@")
    assert components["onnxruntime"]["licenses"] == [{"license": {"id": "MIT", "acknowledgement": "declared"}}]
    assert components["libc6"]["purl"].startswith("pkg:deb/debian/libc6@")
    assert not components.keys() & {"pip", "setuptools", "gcc", "python3-dev", "cyclonedx-bom"}
    installed = {
        path.name.partition("-")[0].lower().replace("_", "-")
        for path in (image.root / "opt/tocsin").glob("lib/python3*/site-packages/*.dist-info")
    }
    assert installed <= {name.lower().replace("_", "-").replace(".", "-") for name in components}
    rows = (image.root / "opt/tocsin/share/licences.md").read_text().splitlines()[2:]
    assert len(rows) == len(components) and all(row.count("|") == 4 and row.split("|")[3].strip() for row in rows)


def test_every_module_of_ours_finds_what_it_imports(image: Image, tmp_path: Path) -> None:
    """But for those of extras that the image does not have."""
    script = (
        "import importlib, pkgutil, sys, tocsin, tocsin_calibration, tocsin_detectors\n"
        "for package in (tocsin, tocsin_calibration, tocsin_detectors):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        try: module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "        except ImportError as error: print('lacks', error.name)\n"
        "print(len(sys.modules))\n"
    )
    *lacking, count = run(image, tmp_path, "python", "-c", script).stdout.splitlines()
    assert set(lacking) == {"lacks grafana_foundation_sdk", "lacks mlserver"}
    assert int(count) > 1000


def test_the_base_installs_tests_pass_in_it(image: Image, tmp_path: Path) -> None:
    """With what is left of its packages, and pytest from elsewhere."""
    wanted = ["--quiet", "--target", str(tmp_path / "pytest"), "hypothesis", "pytest", "pytest-asyncio"]
    subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=True)
    (folder, names) = re.findall(r"^BASE_TESTS := \$\(addprefix (.*?),(.*?)\)$", MAKEFILE, re.MULTILINE | re.DOTALL)[0]
    tests = [f"/src/{folder}{name}" for name in names.replace("\\", "").split()]
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o777)
    command = ["python", "-m", "pytest", "-p", "no:cacheprovider", "-o", "pythonpath=", "--rootdir", "/src", *tests]
    sources = {f"/src/{name}": ROOT / name for name in ("benchmarks", "pyproject.toml", "tests")}
    done = run(
        image, tmp_path, *command, folders={"/pytest": tmp_path / "pytest", **sources},
        written={"/tmp": tmp_path / "tmp"}, environment={"PYTHONPATH": "/pytest:/src", "HOME": "/tmp"},
    )  # fmt: skip
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]


def test_it_fetches_a_bundle_and_guards_a_real_server_as_the_chart_has_it(
    image: Image, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    bundles.chmod(0o777)
    with registry(tmp_path) as address:
        monkeypatch.chdir(bundle.parent)
        OrasClient(insecure=True).push(target=f"{address}/models/digits:v1", files=[bundle.name])
        source = ["tocsin", "bundle", "fetch", f"oci://{address}/models/digits:v1", "/bundles/digits.tocsin"]
        digest = Bundle.read(bundle).digest
        done = run(image, tmp_path, *source, "--digest", digest, "--plain-http", written={"/bundles": bundles})
        assert done.returncode == 0 and digest in done.stdout, done.stdout
    with model_server() as (model, upstream), redis_server() as server:
        model.answers = {b"safe": inference(safe_traffic(1), slice(0, 1)), b"far": inference(far_away(1), slice(0, 1))}
        port, metrics = free_port(), free_port()
        manifests = manifests_for(upstream, port, metrics, server.url)
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "tocsin.yaml").write_text(manifests["ConfigMap"]["data"]["tocsin.yaml"])
        _, relay = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
        folders = {"/etc/tocsin": tmp_path / "config", "/bundles": bundles}
        assert {mount["mountPath"] for mount in relay["volumeMounts"]} == set(folders)
        container = Container(image, relay["args"], relay["securityContext"], folders)
        with container.started(tmp_path) as process:
            with grpc.insecure_channel(f"127.0.0.1:{port}", TRIES_AGAIN_SOON) as channel:
                assert ask(channel, b"safe", model.answers[b"safe"]).severity is None
                assert ask(channel, b"far", model.answers[b"far"]).severity == "critical"
            probe = f"http://127.0.0.1:{metrics}{relay['readinessProbe']['httpGet']['path']}"
            with urllib.request.urlopen(probe, timeout=60) as ready:
                assert ready.status == 200
            health = container.execute(*health_check(image, metrics))
            assert health.returncode == 0, health.stderr
            (test,) = manifests["Test"]["spec"]["containers"]  # what `helm test` runs
            service = manifests["Service"]["metadata"]["name"]
            command = [part.replace(f"{service}:", "127.0.0.1:") for part in test["args"]]
            tested = Container(image, command, test["securityContext"]).run(tmp_path)
            assert tested.returncode == 0, tested.stdout
            deadline = time.monotonic() + 60
            while not Redis.from_url(server.url).keys("*"):  # what replicas share, every few seconds
                assert time.monotonic() < deadline
                time.sleep(0.2)
            container.signal("TERM")
            assert process.wait(60) == 0


def manifests_for(upstream: str, port: int, metrics: int, state: str) -> dict[str, Any]:
    """What the chart installs: a sidecar on these ports of this machine, with all that the image's extras are for."""
    return rendered({
        **SMALL,
        "model": {**SMALL["model"], "port": int(upstream.rpartition(":")[2])},
        "service": {"port": port},
        "tocsin": {
            "port": port, "metricsPort": metrics, "mode": "annotate", "scoringBudget": "60s", "state": {"redis": state},
            "models": {"digits": {"bundle": "digits.tocsin", "session": "metadata.x-session", "signals": SIGNALS}},
            "settings": {"admin": None, "opentelemetry": {"endpoint": f"http://127.0.0.1:{free_port()}"}},
        },
    })  # fmt: skip


def ask(channel: grpc.Channel, request: bytes, answer: bytes) -> Verdict:
    """The verdict on a response, which is the server's own."""
    metadata = (("x-session", "a"),)
    response, call = channel.unary_unary(INFER).with_call(request, timeout=120, wait_for_ready=True, metadata=metadata)
    verdict = tocsin.verdict(call)
    assert response == answer and verdict.unscored is None
    return verdict


def health_check(image: Image, port: int) -> list[str]:
    """The image's own, on this port instead of the usual one."""
    kind, *command = image.config["Healthcheck"]["Test"]
    usual = yaml.safe_load((ROOT / "helm/tocsin/values.yaml").read_text())["tocsin"]["metricsPort"]
    assert kind == "CMD" and f":{usual}/healthz" in command[-1]
    return [part.replace(f":{usual}/", f":{port}/") for part in command]
