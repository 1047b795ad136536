"""Maximum softmax probability."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tocsin_detectors.confidence.distribution import OfDistribution

if TYPE_CHECKING:
    from spox import Var


class MaxSoftmax(OfDistribution):
    """1 - max_c p_c, in [0, 1 - 1/C]: how much probability the answer itself does not have.

    Reads class probabilities, (n, C), as they are. Nothing is learnt. The plainest baseline, and hard to beat at
    telling wrong answers from right ones; blind to inputs on which the model is confidently wrong.

    Source: Hendrycks and Gimpel (2017), arXiv:1610.02136.
    """

    name: ClassVar[str] = "max_softmax"
    source: ClassVar[str] = "Hendrycks and Gimpel 2017, arXiv:1610.02136"

    def graph(self, *signals: Var) -> Var:
        """(n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        return op.sub(op.const(np.float32(1)), op.reduce_max(signals[0], op.const(np.array([1])), keepdims=1))
