"""NVIDIA Dynamo's KServe frontend behind the relay, with a worker of tensors."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.harness.parts import INFER, STREAM_INFER, free_port, quick_bundle, settings
from benchmarks.report import Check
from benchmarks.servers.serving import PATIENCE, until_ready
from tocsin.protocols import oip
from tocsin.testing.guards import running
from tocsin.verdict import METADATA_KEY, Verdict

HERE = Path(__file__).parent
TIMEOUT = 120.0
SAFE, FAR = 0.0, 1.0


def try_dynamo(python: Path) -> tuple[dict[str, Any], list[Check]]:
    """Calls and streams through the relay: which were scored, and which alarmed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        quick_bundle(folder / "digits.tocsin")
        with (
            _dynamo(python, folder) as address,
            running(settings(address, folder / "digits.tocsin")) as relay,
            grpc.insecure_channel(relay.target) as channel,
        ):
            safe = [_verdict(channel, SAFE) for _ in range(20)]
            far = _verdict(channel, FAR)
            stream = channel.stream_stream(STREAM_INFER)(iter([request(FAR)]), timeout=TIMEOUT)
            messages = len(list(stream))
            streamed = _verdict_in(stream.trailing_metadata())
        version = subprocess.run(
            [python, "-c", "from importlib.metadata import version; print(version('ai-dynamo-runtime'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    scored = sum(verdict.unscored is None for verdict in safe)
    results = {
        "dynamo": version, "scored": scored, "messages": messages, "far": far.severity, "stream": streamed.severity,
    }  # fmt: skip
    return results, [
        Check("Dynamo, KServe frontend: answers scored", scored, "= 20", scored == 20),
        Check("Dynamo: an answer far from safe ones alarms", far.alarm, "= 1", far.severity == "critical"),
        Check("Dynamo: the same on a stream", streamed.alarm, "= 1", streamed.severity == "critical"),
    ]


def request(query: float) -> bytes:
    """A ModelInferRequest."""
    message = oip.Request(model_name="digits", id="1")
    tensor = message.inputs.add(name="query", datatype="FP32")
    tensor.shape.append(1)
    tensor.contents.fp32_contents.append(query)
    return bytes(message.SerializeToString())


@contextmanager
def _dynamo(python: Path, folder: Path) -> Iterator[str]:
    """The address of the frontend, once it serves the worker's model."""
    port = free_port()
    environment = {
        **os.environ, "PYTHONPATH": "", "DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": str(folder / "discovery"),
        "DYN_REQUEST_PLANE": "tcp", "DYN_EVENT_PLANE": "zmq",
    }  # fmt: skip
    worker = [python, HERE / "dynamo_worker.py"]
    frontend = [
        python, "-m", "dynamo.frontend", "--kserve-grpc-server", "--http-host", "127.0.0.1", "--http-port", str(port),
        "--grpc-metrics-port", str(free_port()),
    ]  # fmt: skip
    with (
        until_ready(worker, environment, folder / "worker.log", lambda log: True),
        until_ready(frontend, environment, folder / "frontend.log", lambda log: True),
    ):
        _until_served(f"127.0.0.1:{port}", folder)
        yield f"127.0.0.1:{port}"


def _until_served(address: str, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with grpc.insecure_channel(address) as channel:
                channel.unary_unary(INFER)(request(SAFE), timeout=10)
                return
        except grpc.RpcError as error:
            if time.monotonic() > deadline:
                logs = "".join((folder / f"{name}.log").read_text()[-2_000:] for name in ("worker", "frontend"))
                raise RuntimeError(f"Dynamo does not serve: {error.details()}\n{logs}") from None
            time.sleep(0.5)


def _verdict(channel: grpc.Channel, query: float) -> Verdict:
    _, call = channel.unary_unary(INFER).with_call(request(query), timeout=TIMEOUT)
    return _verdict_in(call.trailing_metadata())


def _verdict_in(metadata: Any) -> Verdict:
    return Verdict.from_metadata(dict(metadata)[METADATA_KEY])
