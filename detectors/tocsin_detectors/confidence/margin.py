"""Margin."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tocsin_detectors.confidence.distribution import OfDistribution

if TYPE_CHECKING:
    from spox import Var


class Margin(OfDistribution):
    """1 - (p_(1) - p_(2)), in [0, 1]: how close the second-best class comes to the best.

    Reads class probabilities, (n, C), as they are. Nothing is learnt. Works where confusion is between two classes,
    which entropy dilutes when there are many; says little when the model is lost among all of them.

    Source: Scheffer, Decomain and Wrobel (2001), doi:10.1007/3-540-44816-0_31.
    """

    name: ClassVar[str] = "margin"
    source: ClassVar[str] = "Scheffer, Decomain and Wrobel 2001, doi:10.1007/3-540-44816-0_31"

    def graph(self, *signals: Var) -> Var:
        """(n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        top, _ = op.top_k(signals[0], op.const(np.array([2])))
        # The two largest, weighted -1 and 1, make the negative margin.
        weights, axis = op.const(np.array([[-1], [1]], np.float32)), op.const(np.array([1], np.float32))
        return op.gemm(top, weights, axis)
