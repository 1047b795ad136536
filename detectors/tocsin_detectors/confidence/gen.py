"""Generalised entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.detector import fitted

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class GeneralisedEntropy:
    """GEN: G(p) = sum over the M largest p_c of p_c^gamma (1 - p_c)^gamma, >= 0: entropy that heeds small deviations.

    Reads class probabilities, (n, C), as they are. Nothing is learnt. With gamma near 0 a little mass off the top
    class counts for much, which is where shifted inputs differ from safe ones; needs unrounded probabilities.

    `gamma` in (0, 1]; `classes` is M, all where there are fewer. The defaults are the paper's.

    Source: Liu, Lochman and Zach (2023), GEN, CVPR 2023.
    """

    name: ClassVar[str] = "gen"
    source: ClassVar[str] = "Liu, Lochman and Zach 2023, CVPR"

    def __init__(self, signal: str = "probs", *, gamma: float = 0.1, classes: int = 100) -> None:
        if not 0 < gamma <= 1 or classes < 1:
            raise ValueError(f"gamma must lie in (0, 1] and classes be at least 1, not {gamma} and {classes}")
        self.reads = (signal,)
        self.gamma, self.classes = gamma, classes
        self._top: int | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check that the signal holds distributions. Raises SignalError when it does not."""
        del seed
        safe.require_distribution(self.reads[0])
        self._top = min(self.classes, safe.width(self.reads[0]))
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        top, _ = op.top_k(signals[0], op.const(np.array([fitted(self._top, self.name)])))
        # Rounding may leave a probability a hair above 1, of which no power exists.
        rest = op.max([op.sub(op.const(np.float32(1)), top), op.const(np.float32(0))])
        powers = op.pow(op.mul(top, rest), op.const(np.float32(self.gamma)))
        return op.reduce_sum(powers, op.const(np.array([1])), keepdims=1)
