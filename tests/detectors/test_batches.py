"""Claim: a response has the same score, to the last bit, in any batch and wherever it lies in memory."""

from __future__ import annotations

import numpy as np
import pytest
import spox
import spox.opset.ai.onnx.v18 as op
from tests.detectors.test_robustness import ROWS, example, fitted, needed

from tocsin_detectors import (
    Energy,
    Entropy,
    Features,
    GeneralisedEntropy,
    KLMatching,
    Mahalanobis,
    Observations,
    Scorer,
    compile,
)
from tocsin_detectors.embedding import NearestNeighbours, RandomNetworkDistillation, VirtualLogit
from tocsin_detectors.registry import BUILT_IN

LARGEST = 300


def rows_of(scorer: Scorer, observations: Observations) -> dict[str, np.ndarray]:
    """More rows than the largest batch, some of them alike."""
    return {name: np.concatenate([observations[name], observations[name][: LARGEST - ROWS]]) for name in scorer.signals}


def lying_at(offset: int, values: np.ndarray) -> np.ndarray:
    """The same values, `offset` bytes after an address that vector instructions like."""
    room = np.zeros(values.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    placed = room[start : start + values.nbytes].view(np.float32).reshape(values.shape)
    placed[:] = values
    return placed


def assert_the_same_in_any_batch(scorer: Scorer, signals: dict[str, np.ndarray]) -> None:
    together = scorer.run(signals)
    for size in range(1, LARGEST):
        start = 7 * size % (LARGEST - size + 1)
        part = {name: np.ascontiguousarray(values[start : start + size]) for name, values in signals.items()}
        np.testing.assert_array_equal(scorer.run(part), together[start : start + size], f"{size} rows from {start}")
    for offset in range(0, 64, 4):
        part = {name: lying_at(offset, values[:37]) for name, values in signals.items()}
        np.testing.assert_array_equal(scorer.run(part), together[:37], f"{offset} bytes off")


@pytest.mark.long
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_detector_scores_a_row_alike_in_any_batch(name: str) -> None:
    scorer = fitted(name, needed(name))
    assert_the_same_in_any_batch(scorer, rows_of(scorer, Observations(example(1))))


def test_so_does_a_graph_behind_a_model_in_double_precision() -> None:
    """In float32 it may not: the user's model is computed as it is."""
    rng = np.random.default_rng(3)
    x = spox.argument(spox.Tensor(np.float64, ("n", 33)))
    hidden = op.tanh(op.matmul(x, op.const(rng.normal(size=(33, 70)))))
    shown = op.softmax(op.matmul(hidden, op.const(rng.normal(size=(70, 19)))), axis=1)
    features = Features("embedding", spox.build({"x": x}, {"y": shown}).SerializeToString())
    safe = Observations({"x": rng.normal(size=(LARGEST, 33))})
    scorer = compile([Mahalanobis(), NearestNeighbours()], fit_on=safe, features=[features])
    assert_the_same_in_any_batch(scorer, {"x": safe["x"]})


@pytest.mark.long
@pytest.mark.parametrize(("classes", "width", "sharpness"), [(10, 64, 0.1), (3, 17, 4), (214, 33, 1), (10, 8, 20)])
def test_so_does_a_whole_graph_of_other_widths(classes: int, width: int, sharpness: float) -> None:
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
    assert_the_same_in_any_batch(scorer, {name: safe[name] for name in scorer.signals})
