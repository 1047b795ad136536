"""Simplified Hopfield energy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.detector import fitted
from tocsin_detectors.embedding.classes import class_means

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class SimplifiedHopfieldEnergy:
    """SHE: -x . s_k for the class k on top: how little an embedding resembles the stored pattern of its own class.

    Reads an embedding, (n, D), and logits or probabilities, (n, C). Learns s_k, the mean safe embedding of each class
    on top; one that never is has the pattern 0. Meant for the layer before the logits. Works where a shifted input
    activates that layer less or otherwise than the class it is given; depends on the embedding's length.

    Source: Zhang, Fu, Cao et al. (2023), Out-of-distribution detection based on in-distribution data patterns
    memorization with modern Hopfield energy, ICLR 2023.
    """

    name: ClassVar[str] = "she"
    source: ClassVar[str] = "Zhang et al. 2023, ICLR"

    def __init__(self, signal: str = "embedding", classes: str = "logits") -> None:
        self.reads = (signal, classes)
        self._patterns: NDArray[np.float64] | None = None  # (C, D)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Store the patterns. Raises SignalError when one class alone is ever on top, or signals are not finite."""
        del seed
        present, means = class_means(safe, *self.reads)
        self._patterns = np.zeros((safe.width(self.reads[1]), safe.width(self.reads[0])))
        self._patterns[present] = means
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D), (n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        patterns = op.const(fitted(self._patterns, self.name).astype(np.float32))
        pattern = op.gather(patterns, op.arg_max(signals[1], axis=1, keepdims=0), axis=0)
        alike = op.reduce_sum(op.mul(signals[0], pattern), op.const(np.array([1])), keepdims=1)
        return op.neg(alike)
