"""Rectified activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.detector import fitted
from tocsin_detectors.embedding.last_layer import LastLayer, recover

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

SAMPLE = 100_000  # rows that the percentile is taken over


class RectifiedActivations:
    """ReAct: -log sum_c exp(W^T min(x, t) + b)_c: the energy, after activations are cut off at t.

    Reads the activations before the logits, (n, D); fitting also looks at the logits, (n, C), and recovers W and b
    from both by least squares. Learns t, the `percentile` of all safe activations. Works where shifted inputs make a
    few units fire far above anything usual, which flatters the plain energy.

    Source: Sun, Guo and Li (2021), arXiv:2111.12797.
    """

    name: ClassVar[str] = "react"
    source: ClassVar[str] = "Sun, Guo and Li 2021, arXiv:2111.12797"

    def __init__(self, signal: str = "embedding", logits: str = "logits", *, percentile: float = 90) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile must lie in (0, 100], not {percentile}")
        self.reads, self.fits_on = (signal,), (logits,)
        self.percentile = percentile
        self._layer: LastLayer | None = None
        self._cut = np.inf

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Recover the layer, find t. Raises SignalError when the signal is not what the logits are computed from."""
        self._layer = recover(safe, self.reads[0], self.fits_on[0])
        self._cut = float(np.percentile(safe.sample(SAMPLE, seed=seed)[self.reads[0]], self.percentile))
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        weights, bias = fitted(self._layer, self.name)
        cut = op.min([signals[0], op.const(np.float32(self._cut))])
        logits = op.gemm(cut, op.const(weights.astype(np.float32)), op.const(bias.astype(np.float32)))
        return op.neg(op.reduce_log_sum_exp(logits, op.const(np.array([1])), keepdims=1))
