"""A policy as a model server: Open Inference (KServe v2) over gRPC.

    python examples/robot/server.py push-v3.onnx --port 8081

A request holds the state as `observation`, FP32 (1, 39). The response holds all sampled chunks as `actions`, FP32
(1, 256, 16, 4) without --samples, the first of which is meant to be done, and the encoder's `embedding`, FP32 (1, 64).
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import grpc
import numpy as np
from policy import SAMPLES, Served
from tasks import STATE
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as service


class Policies(service.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The inference service of one policy."""

    def __init__(self, name: str, policy: Served) -> None:
        self._name, self._policy, self._alone = name, policy, Lock()

    def ServerLive(self, request: oip.ServerLiveRequest, context: grpc.ServicerContext) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    def ServerReady(self, request: oip.ServerReadyRequest, context: grpc.ServicerContext) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=True)

    def ModelReady(self, request: oip.ModelReadyRequest, context: grpc.ServicerContext) -> oip.ModelReadyResponse:
        return oip.ModelReadyResponse(ready=request.name == self._name)

    def ModelInfer(self, request: oip.ModelInferRequest, context: grpc.ServicerContext) -> oip.ModelInferResponse:
        if request.model_name != self._name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no '{request.model_name}' here, only '{self._name}'")
        raw = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=False))
        if len(raw.get("observation", b"")) != 4 * STATE:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"'observation' must be raw FP32 of the shape (1, {STATE})")
        with self._alone:
            actions, embedding = self._policy(np.frombuffer(raw["observation"], np.float32))
        response = oip.ModelInferResponse(model_name=self._name, id=request.id)
        for name, values in {"actions": actions, "embedding": embedding}.items():
            response.outputs.add(name=name, datatype="FP32", shape=[1, *values.shape])
            response.raw_output_contents.append(np.asarray(values, "<f4").tobytes())
        return response


def serve(policy: Path, port: int, seed: int = 0, samples: int = SAMPLES) -> None:
    """Serve a policy under the name of its file until interrupted."""
    server = grpc.server(ThreadPoolExecutor(4))
    service.add_GRPCInferenceServiceServicer_to_server(Policies(policy.stem, Served(policy, seed, samples)), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"{policy.stem} on 127.0.0.1:{bound}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path, help="what policy.py or rollouts.py made")
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--seed", type=int, default=0, help="of the noise that chunks are made from")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="chunks in an answer")
    options = parser.parse_args()
    serve(options.policy, options.port, options.seed, options.samples)
