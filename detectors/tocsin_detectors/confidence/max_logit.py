"""Maximum logit."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class MaxLogit:
    """-max_c z_c, in the logits' unit: high where no class has much evidence, whatever the others have.

    Reads logits before the softmax, (n, C). Nothing is learnt. Works with many or overlapping classes, which share
    out a softmax's probability though the evidence is there.

    Source: Hendrycks et al. (2022), arXiv:1911.11132.
    """

    name: ClassVar[str] = "max_logit"
    source: ClassVar[str] = "Hendrycks et al. 2022, arXiv:1911.11132"

    def __init__(self, signal: str = "logits") -> None:
        self.reads = (signal,)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check that the signal is finite. Raises SignalError when it is not."""
        del seed
        safe.require_finite(self.reads[0])
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        return op.neg(op.reduce_max(signals[0], op.const(np.array([1])), keepdims=1))
