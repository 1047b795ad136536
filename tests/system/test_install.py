"""Claim: `pip install tocsin` alone, in an empty environment, serves; torch and its company stay away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import grpc
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, SIGNALS, TRIES_AGAIN_SOON, at_once, free_port, inference, safe_traffic

import tocsin

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("install")
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.binpb")
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    venv.create(folder / "env")
    executable = folder / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # The wheel is built from the source distribution, which must have all it takes, with what is here already: that an
    # environment of its own suffices, each build of the compiled modules shows. pip works from here into the empty
    # environment, and what is imported is compiled then alone.
    pack = [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('../packed')"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels"]
    install = [*pip, "--python", executable, "install", "--no-warn-script-location"]
    environment = {**os.environ, "PIP_NO_COMPILE": "1"}
    for command, files in ((pack, ""), (build, "packed/*.tar.gz"), (install, "wheels/*.whl")):
        done = subprocess.run(
            [*command, *(folder.glob(files) if files else ())],
            cwd=folder / "source", capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return executable


def test_the_wheel_has_no_sources_in_c_and_nothing_that_is_compiled(python: Path) -> None:
    (wheel,) = (python.parents[2] / "wheels").glob("tocsin-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        suffixes = {Path(name).suffix for name in packed.namelist()}
    assert ".py" in suffixes and not suffixes & {".c", ".h", ".so"}


def test_the_base_install_serves_a_bundle(python: Path, bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "list", "--format=freeze"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert not names & {"torch", "onnx", "spox", "pyarrow", "scikit-learn", "pandas", "matplotlib"}
    answer = inference(safe_traffic(1), slice(0, 1))
    port = free_port()
    with model_server() as (model, address):
        model.answers = {b"x": answer}
        config = tmp_path / "tocsin.yaml"
        lines = "\n".join(f"      {name}: {path}" for name, path in SIGNALS.items())
        config.write_text(
            f"listen: 127.0.0.1:{port}\nupstream: {address}\nmode: annotate\nmetrics: null\nadmin: null\n"
            "scoring_budget: 60s\n"
            f"models:\n  digits:\n    bundle: {bundle}\n    signals:\n{lines}\n"
        )
        command = [python.with_name("tocsin"), "serve", "-c", str(config)]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=at_once()) as process:
            with grpc.insecure_channel(f"127.0.0.1:{port}", TRIES_AGAIN_SOON) as channel:
                response, call = channel.unary_unary(INFER).with_call(b"x", timeout=60, wait_for_ready=True)
            process.terminate()
            assert process.wait(60) == 0, process.stderr and process.stderr.read()
    assert response == answer
    assert tocsin.verdict(call).unscored is None


def test_what_needs_an_extra_says_which(python: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["fit", "x", "-o", "y", "-d", "entropy"], "pip install 'tocsin[fit]'"),
        (["record", "-c", str(tmp_path / "c.yaml"), "-o", str(tmp_path)], "pip install 'tocsin[record]'"),
        (["demo"], "pip install 'tocsin[demo]'"),
    ):
        (tmp_path / "c.yaml").write_text("models: {m: {signals: {probs: response.outputs.p}}}\n")
        done = subprocess.run([python, "-m", "tocsin", *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr, done.stderr
