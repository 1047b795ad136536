"""What is sent and answered: an image of 28x28, and an inference with probabilities, logits and an embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tocsin.grpc_wire.deframer import framed
from tocsin.protocols import oip
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Detector, Energy, Entropy, Mahalanobis, Observations, RandomNetworkDistillation, compile

PATH = "/inference.GRPCInferenceService/ModelInfer"
STREAM_PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
WIDTHS = {"probs": 10, "logits": 10, "embedding": 64}


def traffic(rows: int) -> Observations:
    """Signals of the kind that the demo's model gives."""
    random = np.random.default_rng(0)
    logits = random.normal(scale=3, size=(rows, WIDTHS["logits"]))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Observations({"probs": probs, "logits": logits, "embedding": random.normal(size=(rows, 64))})


def make_bundle(safe: Observations, path: Path) -> None:
    """Four detectors and a joint promise, as in the demo."""
    detectors: list[Detector] = [Entropy(), Energy(), Mahalanobis(), RandomNetworkDistillation(epochs=30)]
    scorer = compile(detectors, fit_on=safe.take(slice(0, 400)))
    promise = calibrate(scorer(safe.take(slice(400, None))), detectors=scorer.detectors)
    Bundle(scorer, promise, "bench").write(path)


def request() -> bytes:
    """One framed inference request."""
    image = oip.Request(model_name="bench", raw_input_contents=[bytes(28 * 28 * 4)])
    image.inputs.add(name="image", datatype="FP32").shape.extend([1, 784])
    return framed(image.SerializeToString())


def response(observations: Observations, row: int, *, padding: int = 0) -> bytes:
    """One inference response; `padding`: bytes of a tensor that nobody reads."""
    return responses(observations.take(slice(row, row + 1)), 1, padding=padding)


def responses(observations: Observations, rows: int, *, padding: int = 0) -> bytes:
    """One inference response with the first so many rows."""
    message = oip.Response(model_name="bench", model_version="1", id="6d9b4f2e")
    for name, values in observations.items():
        message.outputs.add(name=name, datatype="FP32").shape.extend([rows, values.shape[1]])
        message.raw_output_contents.append(values[:rows].tobytes())
    if padding:
        message.outputs.add(name="picture", datatype="UINT8").shape.extend([rows, padding // rows])
        message.raw_output_contents.append(bytes(padding // rows * rows))
    return bytes(message.SerializeToString())


def smallest(observations: Observations) -> bytes:
    """An inference response of a hundred bytes: probabilities alone."""
    return response(Observations({"probs": observations["probs"]}), 0)


def stream(message: bytes, many: int) -> bytes:
    """So many framed messages of a stream of inferences."""
    return framed(oip.StreamEnvelope(infer_response=message).SerializeToString()) * many
