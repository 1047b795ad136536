"""Disagreement between what two modalities predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.confidence.distribution import require_same_classes
from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class ModalityDiscrepancy:
    """The distance between the class distributions that two modalities' heads predict, in [0, 2], or [0, 1].

    Reads the class probabilities of both heads, (n, C) each. L1, sum_c |p_c - q_c|, unless `hellinger` asks for
    || sqrt p - sqrt q ||_2 / sqrt 2. With `without_top`, the class that both agree to be the likeliest is left out and
    the rest renormalised, which leaves the disagreement about what else it might be; where they do not agree, nothing
    is left out. Nothing is learnt. Works where shifted inputs break what the modalities say in common; blind where both
    fail alike. The scores of each modality alone are `entropy:SIGNAL` and its kin.

    Source: Dong, Zhao, Chatzi and Fink (2024), MultiOOD (A2D), arXiv:2405.17419.
    """

    name: ClassVar[str] = "modality_discrepancy"
    source: ClassVar[str] = "MultiOOD, Dong et al. 2024, arXiv:2405.17419"
    resolution: ClassVar[float] = 2.0**-30

    def __init__(
        self,
        signal: str = "probs_a",
        other: str = "probs_b",
        *,
        hellinger: bool = False,
        without_top: bool = False,
    ) -> None:
        self.reads = (signal, other)
        self.hellinger, self.without_top = hellinger, without_top

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check both. Raises SignalError when they hold no distributions over the same number of classes."""
        del seed
        classes = require_same_classes(safe, self.reads)
        if self.without_top and classes < 3:
            raise SignalError(f"without_top leaves nothing to compare of {classes} classes")
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, C) twice -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        axis = op.const(np.array([1]))
        p, q = (op.div(signal, op.reduce_sum(signal, axis, keepdims=1)) for signal in signals)
        if self.without_top:
            tops = [op.cast(op.equal(x, op.reduce_max(x, axis, keepdims=1)), to=np.float32) for x in (p, q)]
            confidence = op.sub(op.const(np.float32(1)), op.mul(*tops))
            tiny = op.const(np.float32(1e-30))  # where a model is so sure that nothing is left, nothing disagrees
            p, q = (
                op.div(op.mul(x, confidence), op.max([op.reduce_sum(op.mul(x, confidence), axis, keepdims=1), tiny]))
                for x in (p, q)
            )
        if self.hellinger:
            distance = op.reduce_l2(op.sub(op.sqrt(p), op.sqrt(q)), axis, keepdims=1)
            return op.mul(distance, op.const(np.float32(2**-0.5)))
        return op.reduce_l1(op.sub(p, q), axis, keepdims=1)
