"""Ray Serve's gRPC proxy behind the relay, described by its own reflection."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.harness.parts import free_port, quick_bundle
from benchmarks.report import Check
from benchmarks.servers.serving import until_ready
from tocsin.configuration.config import Config
from tocsin.testing.guards import running
from tocsin.verdict import METADATA_KEY, Verdict

HERE = Path(__file__).parent
CLASSIFY, WATCH = "/tried.v1.Classifier/Classify", "/tried.v1.Classifier/Watch"
TIMEOUT = 120.0


def try_ray(python: Path) -> tuple[dict[str, Any], list[Check]]:
    """Calls of both kinds through the relay: which were scored, and which alarmed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        quick_bundle(folder / "classifier.tocsin", model="classifier")
        with (
            _ray(python, folder) as address,
            running(_config(address, folder)) as relay,
            grpc.insecure_channel(relay.target) as channel,
        ):
            safe = [_verdict(channel.unary_unary(CLASSIFY), b"safe") for _ in range(20)]
            far = _verdict(channel.unary_unary(CLASSIFY), b"far")
            stream = channel.unary_stream(WATCH)(_question(b"safe far safe"), timeout=TIMEOUT)
            messages = len(list(stream))
            watched = _verdict_in(stream.trailing_metadata())
        version = subprocess.run(
            [python, "-c", "import ray; print(ray.__version__)"], capture_output=True, text=True, check=True
        ).stdout.strip()
    scored = sum(verdict.unscored is None for verdict in safe)
    results = {"ray": version, "scored": scored, "messages": messages, "far": far.severity, "stream": watched.severity}
    return results, [
        Check("Ray Serve, by reflection: answers scored", scored, "= 20", scored == 20),
        Check("Ray Serve: an answer far from safe ones alarms", far.alarm, "= 1", far.severity == "critical"),
        Check("Ray Serve: a stream's far message alarms", watched.alarm, "= 1", watched.severity == "critical"),
        Check("Ray Serve: messages of the stream", messages, "= 3", messages == 3),
    ]


def _config(address: str, folder: Path) -> Config:
    protocol = {"reflection": True, "methods": {CLASSIFY: {}, WATCH: {}}}
    model = {
        "protocol": "ray", "bundle": folder / "classifier.tocsin",
        "signals": {"probs": "response.probs", "embedding": "response.embedding"},
    }  # fmt: skip
    return Config(
        listen="127.0.0.1:0", upstream=address, metrics=None, admin=None, mode="annotate", scoring_budget="60s",
        protocols={"ray": protocol}, models={"classifier": model},
    )  # fmt: skip


@contextmanager
def _ray(python: Path, folder: Path) -> Iterator[str]:
    """The address of the gRPC proxy."""
    compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", f"--python_out={folder}"]
    subprocess.run([*compiler, f"--grpc_python_out={folder}", HERE / "classifier.proto"], check=True)
    port, http_port = free_port(), free_port()
    environment = {**os.environ, "PYTHONPATH": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [python, HERE / "ray_application.py", str(port), str(http_port)]
    with until_ready(command, environment, folder / "ray.log", lambda log: "ready" in log):
        yield f"127.0.0.1:{port}"


def _question(query: bytes) -> bytes:
    return b"\x0a" + bytes([len(query)]) + query


def _verdict(method: Any, query: bytes) -> Verdict:
    _, call = method.with_call(_question(query), timeout=TIMEOUT)
    return _verdict_in(call.trailing_metadata())


def _verdict_in(metadata: Any) -> Verdict:
    return Verdict.from_metadata(dict(metadata)[METADATA_KEY])
