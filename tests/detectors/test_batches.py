"""Claim: a graph of several detectors scores a response alike to the last bit in any batch and place in memory.

For each detector alone, the contract of every detector claims it (test_contract.py).
"""

from __future__ import annotations

import numpy as np
import pytest
import spox
import spox.opset.ai.onnx.v18 as op

from tocsin.testing.detectors import same_in_any_batch
from tocsin_detectors import (
    Energy,
    Entropy,
    Features,
    GeneralisedEntropy,
    KLMatching,
    Mahalanobis,
    NearestNeighbours,
    Observations,
    RandomNetworkDistillation,
    VirtualLogit,
    compile,
)

LARGEST = 300


def test_a_graph_behind_a_model_in_double_precision() -> None:
    """In float32 it may not: the user's model is computed as it is."""
    rng = np.random.default_rng(3)
    x = spox.argument(spox.Tensor(np.float64, ("n", 33)))
    hidden = op.tanh(op.matmul(x, op.const(rng.normal(size=(33, 70)))))
    shown = op.softmax(op.matmul(hidden, op.const(rng.normal(size=(70, 19)))), axis=1)
    features = Features("embedding", spox.build({"x": x}, {"y": shown}).SerializeToString())
    safe = Observations({"x": rng.normal(size=(LARGEST, 33))})
    scorer = compile([Mahalanobis(), NearestNeighbours()], fit_on=safe, features=[features])
    same_in_any_batch(scorer, {"x": safe["x"]})


@pytest.mark.long
@pytest.mark.parametrize(("classes", "width", "sharpness"), [(10, 64, 0.1), (3, 17, 4), (214, 33, 1), (10, 8, 20)])
def test_a_whole_graph_of_other_widths(classes: int, width: int, sharpness: float) -> None:
    rng = np.random.default_rng(classes)
    embedding = rng.normal(size=(LARGEST, width))
    logits = sharpness * embedding @ rng.normal(size=(width, classes))
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    safe = Observations({"probs": probs / probs.sum(axis=1, keepdims=True), "logits": logits, "embedding": embedding})
    scorer = compile(
        [
            Entropy(), GeneralisedEntropy(), Energy(), KLMatching(), Mahalanobis(), VirtualLogit(), NearestNeighbours(),
            RandomNetworkDistillation(epochs=2),
        ],
        fit_on=safe,
    )  # fmt: skip
    same_in_any_batch(scorer, {name: safe[name] for name in scorer.signals})
