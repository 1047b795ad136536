"""Inconsistency when a judge sees the choices in the other order."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.confidence.distribution import require_same_classes

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class OrderSwap:
    """(1/2) sum_c |p_c - q_c|, in [0, 1]: the total variation between a judge's choices in two orders.

    Reads the probabilities of the choices in both orders, (n, C) each, by place: the first column is what was shown
    first. In the second the first two choices were exchanged; further ones, such as a tie, kept their places. Nothing
    is learnt. Finds a judge that prefers a place to an answer; blind to one that is wrong in both orders alike.

    Source: Zheng et al. (2023), arXiv:2306.05685; TrustJudge, Wang et al. (2025), arXiv:2509.21117.
    """

    name: ClassVar[str] = "order_swap"
    source: ClassVar[str] = "Zheng et al. 2023, arXiv:2306.05685"
    resolution: ClassVar[float] = 2.0**-30

    def __init__(self, signal: str = "choice_probs", swapped: str = "swapped_choice_probs") -> None:
        self.reads = (signal, swapped)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check both. Raises SignalError when they hold no distributions over the same number of choices."""
        del seed
        require_same_classes(safe, self.reads)
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, C) twice -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        axis = op.const(np.array([1]))
        top, two = op.const(np.array([1, 0])), op.const(np.array([2]))
        swapped = op.gather(signals[1], top, axis=1)
        rest = op.slice(signals[1], two, op.const(np.array([np.iinfo(np.int64).max])), axis)
        apart = op.sub(signals[0], op.concat([swapped, rest], axis=1))
        return op.mul(op.reduce_l1(apart, axis, keepdims=1), op.const(np.float32(0.5)))
