"""Claim: a guarded channel works in programs that use protobuf 5, 6 or 7, beside classes of the same messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import far_away, inference, safe_traffic

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import google  # a namespace that other packages share: the protobuf asked for comes first in it
google.__path__ = [sys.argv[4] + "/google", *google.__path__]
import google.protobuf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from pathlib import Path

# the program's own classes of the same protocol, in the default pool
files = descriptor_pb2.FileDescriptorSet.FromString(Path(sys.argv[3]).read_bytes())
pool = descriptor_pool.Default()
for file in files.file:
    pool.Add(file)
Own = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferResponse"))

import grpc, tocsin
from tocsin.configuration.config import Config
signals = {name: f"response.outputs.{name}" for name in ("probs", "embedding")}
guard = tocsin.Guard.open(Config(mode="enforce", scoring_budget="60s", models={"digits": {
    "bundle": sys.argv[2], "signals": signals, "on_alarm": {"critical": "block"}}}))
with tocsin.guard_channel(grpc.insecure_channel(sys.argv[1]), guard) as channel:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, Own.FromString)
    response, done = call.with_call(b"safe", timeout=60)
    assert response.model_name == "digits" and tocsin.verdict(done).unscored is None
    try:
        call(b"far", timeout=60)
    except grpc.RpcError as error:
        print(google.protobuf.__version__, error.code().name, tocsin.verdict(error).severity)
"""


@pytest.mark.parametrize("version", ["5", "6", "7"])
def test_every_protobuf(bundle: Path, tmp_path: Path, version: str) -> None:
    target = tmp_path / "protobuf"
    wanted = f"protobuf>={version},<{int(version) + 1}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), wanted]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"pip cannot install {wanted}:\n{done.stderr}"
    paths = [target, *(ROOT / name for name in ("middleware", "calibration", "detectors"))]
    descriptors = ROOT / "middleware" / "tocsin" / "protocols" / "open_inference.binpb"
    with model_server() as (model, address):
        model.answers = {
            b"safe": inference(safe_traffic(1), slice(0, 1)),
            b"far": inference(far_away(1), slice(0, 1)),
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, address, str(bundle), str(descriptors), str(target)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.startswith(f"{version}.") and "PERMISSION_DENIED critical" in done.stdout, done.stderr
