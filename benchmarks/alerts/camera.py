"""Digits as a camera would see them: each picture once, with noise of its own; and pictures that are none.

Live pictures and those of calibration are drawn alike, so that safe traffic is what the promise is about, however much
of it there is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tocsin.demo.digits import Images, digits, unfamiliar_inputs
from tocsin.protocols import oip
from tocsin_detectors import Observations

NOISE = 1.0  # of pixels from 0 to 16
SIGNALS = {
    "probs": "response.outputs.predict_proba", "logits": "response.outputs.logits",
    "hidden": "response.outputs.hidden", "image": "request.inputs.image",
}  # fmt: skip


class Camera:
    """Pictures, a few at a time."""

    def __init__(self, seed: int) -> None:
        data = digits()
        self._digits = np.vstack([data.record, data.safe])
        self._strange = np.vstack(list(unfamiliar_inputs(data.safe).values()))
        self._random = np.random.default_rng(seed)

    def safe(self, rows: int) -> Images:
        """Digits (rows, 64)."""
        return self._noisy(self._digits[self._random.integers(len(self._digits), size=rows)])

    def shifted(self, rows: int, share: float) -> Images:
        """Digits (rows, 64), of which a share is replaced by the demo's inputs that are no digits."""
        pictures = self.safe(rows)
        no_digit = self._random.random(rows) < share
        picked = self._random.integers(len(self._strange), size=int(no_digit.sum()))
        pictures[no_digit] = self._noisy(self._strange[picked])
        return pictures

    def _noisy(self, pictures: Images) -> Images:
        return (pictures + self._random.normal(0, NOISE, pictures.shape)).astype(np.float32)


class Network:
    """The demo's network, learnt from the demo's pictures, with the layers that detectors read."""

    def __init__(self) -> None:
        from sklearn.neural_network import MLPClassifier

        data = digits()
        network = MLPClassifier((64,), max_iter=400, alpha=1e-2, random_state=0).fit(data.train / 16, data.labels)
        self._layers = [
            np.asarray(part, np.float64)
            for pair in zip(network.coefs_, network.intercepts_, strict=True)
            for part in pair
        ]

    def __call__(self, images: Images) -> dict[str, NDArray[np.float32]]:
        """Probabilities (n, 10), logits (n, 10) and hidden layer (n, 64)."""
        first, bias, second, last = self._layers
        hidden = np.maximum(images / 16 @ first + bias, 0)
        logits = hidden @ second + last
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        values = {"predict_proba": powers / powers.sum(axis=1, keepdims=True), "logits": logits, "hidden": hidden}
        return {name: value.astype(np.float32) for name, value in values.items()}

    def observed(self, images: Images) -> Observations:
        """What Tocsin sees of these pictures and their answers."""
        values = self(images)
        return Observations(
            {"probs": values["predict_proba"], "logits": values["logits"], "hidden": values["hidden"], "image": images}
        )

    def answer(self, request: bytes) -> bytes:
        """A ModelInferResponse to a ModelInferRequest of one picture."""
        image = np.frombuffer(oip.Request.FromString(request).raw_input_contents[0], np.float32).reshape(1, -1)
        message = oip.Response(model_name="digits", model_version="v1")
        for name, values in self(image).items():
            message.outputs.add(name=name, datatype="FP32").shape.extend(values.shape)
            message.raw_output_contents.append(values.tobytes())
        return bytes(message.SerializeToString())


def request_for(image: Images) -> bytes:
    """A ModelInferRequest of one picture (64,)."""
    message = oip.Request(model_name="digits")
    message.inputs.add(name="image", datatype="FP32").shape.extend((1, len(image)))
    message.raw_input_contents.append(image.tobytes())
    return bytes(message.SerializeToString())
