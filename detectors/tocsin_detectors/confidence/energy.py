"""Energy score."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.confidence.evidence import require_logits

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class Energy:
    """E(z) = -T log sum_c exp(z_c / T), in the logits' unit: high where no class has any evidence.

    Reads logits before the softmax, (n, C). Nothing is learnt. Works where the logits' size still tells how much
    evidence there is, which a softmax throws away; useless on probabilities, whose energy is always 0.

    `temperature` T > 0; 1 is the paper's choice without fine-tuning.

    Source: Liu, Wang, Owens and Li (2020), arXiv:2010.03759.
    """

    name: ClassVar[str] = "energy"
    source: ClassVar[str] = "Liu et al. 2020, arXiv:2010.03759"

    def __init__(self, signal: str = "logits", *, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.reads = (signal,)
        self.temperature = temperature

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check that the signal holds logits. Raises SignalError when its rows are probabilities."""
        del seed
        require_logits(safe, self.reads[0], "the entropy detector")
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        classes = op.const(np.array([1]))
        if self.temperature == 1.0:
            return op.neg(op.reduce_log_sum_exp(signals[0], classes, keepdims=1))
        scaled = op.div(signals[0], op.const(np.float32(self.temperature)))
        free = op.reduce_log_sum_exp(scaled, classes, keepdims=1)
        return op.mul(free, op.const(np.float32(-self.temperature)))
