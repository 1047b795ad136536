"""Predictive entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tocsin_detectors.confidence.distribution import OfDistribution

if TYPE_CHECKING:
    from spox import Var

SMALLEST = np.float32(1e-38)  # 0 log 0 = 0 without a branch; below float32's resolution of any other probability


class Entropy(OfDistribution):
    """H(p) = -sum_c p_c log p_c, in nats, in [0, log C]: how undecided the answer distribution is.

    Reads class probabilities, (n, C), and renormalises each row. Nothing is learnt. Works for error detection and
    for shifted inputs that confuse the model; blind to inputs on which the model is confidently wrong. A row that
    is no distribution (negative entries, or a sum of zero) scores NaN, which serving reports as unscored.

    Source: Shannon (1948); as a detector of errors, Hendrycks and Gimpel (2017), arXiv:1610.02136.
    """

    name: ClassVar[str] = "entropy"
    source: ClassVar[str] = "Shannon 1948; Hendrycks and Gimpel 2017, arXiv:1610.02136"
    resolution: ClassVar[float] = 2.0**-30

    def graph(self, *signals: Var) -> Var:
        """(n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        classes = op.const(np.array([1]))
        normalised = op.div(signals[0], op.reduce_sum(signals[0], classes, keepdims=1))
        surprisal = op.log(op.add(normalised, op.const(SMALLEST)))
        return op.neg(op.reduce_sum(op.mul(normalised, surprisal), classes, keepdims=1))
