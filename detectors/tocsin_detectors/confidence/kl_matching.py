"""KL-matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.detector import fitted

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


SMALLEST = 1e-12  # probability that a class never seen is taken to have


class KLMatching:
    """min_k KL(p || d_k), in nats, >= 0: how far an answer's distribution lies from every usual one.

    Reads class probabilities, (n, C). Learns d_k, the mean distribution of safe responses whose top class is k;
    classes that are never on top have none. Works where each class has a confusion pattern of its own that shifted
    inputs do not show; needs some ten safe responses a class.

    Source: Hendrycks et al. (2022), arXiv:1911.11132.
    """

    name: ClassVar[str] = "kl_matching"
    source: ClassVar[str] = "Hendrycks et al. 2022, arXiv:1911.11132"
    resolution: ClassVar[float] = 2.0**-30

    def __init__(self, signal: str = "probs") -> None:
        self.reads = (signal,)
        self._usual: NDArray[np.float64] | None = None  # (classes seen, C)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Average the distributions of each top class. Raises SignalError when the signal holds no distributions."""
        del seed
        classes = safe.width(self.reads[0])
        sums, counts = np.zeros((classes, classes)), np.zeros(classes)
        for probs in safe.distributions(self.reads[0]):
            top = np.eye(classes)[probs.argmax(axis=1)]
            sums += top.T @ probs
            counts += top.sum(axis=0)
        self._usual = sums[counts > 0] / counts[counts > 0, None]
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        classes, tiny = op.const(np.array([1])), op.const(np.float32(SMALLEST))
        logs = np.log(np.maximum(fitted(self._usual, self.name), SMALLEST)).T.astype(np.float32)
        negentropy = op.reduce_sum(op.mul(signals[0], op.log(op.add(signals[0], tiny))), classes, keepdims=1)
        closest = op.reduce_max(op.matmul(signals[0], op.const(logs)), classes, keepdims=1)
        return op.sub(negentropy, closest)
