"""The demo's model, as MLServer runs it: a scikit-learn network that learns the digits when it is loaded.

This file is copied beside the model's settings and imported by MLServer, in MLServer's own environment.
"""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from sklearn.neural_network import MLPClassifier


class DigitsModel(MLModel):
    """Input `image`, (n, 64). Outputs: the class, `predict_proba`, `logits` (n, 10), and the hidden layer (n, 64)."""

    async def load(self) -> bool:
        with np.load(self.settings.parameters.uri, allow_pickle=False) as data:
            images, labels = data["images"], data["labels"]
        self._network = MLPClassifier((64,), max_iter=400, alpha=1e-2, random_state=0).fit(images / 16, labels)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0]) / 16
        (first, second), (bias, last) = self._network.coefs_, self._network.intercepts_
        hidden = np.maximum(images @ first + bias, 0)
        logits = hidden @ second + last
        probabilities = self._network.predict_proba(images)
        outputs = {
            "predict": probabilities.argmax(axis=1),
            "predict_proba": probabilities,
            "logits": logits,
            "hidden": hidden,
        }
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output(name, values) for name, values in outputs.items()],
        )
