"""The linear layer between an embedding and the logits, recovered from what the model shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from tocsin_detectors.observation import FittingData

Float64 = NDArray[np.float64]
ERROR = 1e-2  # of the logits' standard deviation: what is further off was computed by more than one linear layer


class LastLayer(NamedTuple):
    """z = x W + b, with W (D, C) and b (C,)."""

    weights: Float64
    bias: Float64


def recover(safe: FittingData, embedding: str, logits: str) -> LastLayer:
    """The layer, by least squares over all safe responses.

    Raises SignalError when the logits are no linear function of the embedding, which then is not the layer before
    them, or when there are too few responses to tell.
    """
    width = safe.width(embedding)
    if safe.rows <= width:
        raise SignalError(
            f"recovering the layer from '{embedding}' to '{logits}' needs more than {width} rows, not {safe.rows}"
        )
    squares, products = np.zeros((width + 1, width + 1)), np.zeros((width + 1, safe.width(logits)))
    total = squared = np.zeros(safe.width(logits))
    for rows, evidence in safe.finite(embedding, logits):
        extended = np.hstack([rows, np.ones((len(rows), 1))])
        squares += extended.T @ extended
        products += extended.T @ evidence
        total, squared = total + evidence.sum(axis=0), squared + (evidence**2).sum(axis=0)
    solution = np.linalg.lstsq(squares, products, rcond=1e-12)[0].astype(np.float64)
    layer = LastLayer(solution[:-1], solution[-1])
    error = sum(((rows @ layer.weights + layer.bias - z) ** 2).sum() for rows, z in safe.finite(embedding, logits))
    variance = (squared - total**2 / safe.rows).sum()
    if error > ERROR**2 * variance:
        raise SignalError(
            f"'{logits}' is no linear function of '{embedding}' (relative error {np.sqrt(error / variance):.2g}); this "
            f"detector needs the activations right before the logits"
        )
    return layer
