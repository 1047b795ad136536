"""Variance of sampled actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.actions.samples import Chunks
from tocsin_detectors.detector import fitted

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class SampleVariance:
    """The variance of S sampled actions, averaged over steps and dimensions; in squared ranges, >= 0.

    Reads sampled action chunks, (n, S, H, A). Learns the range of each dimension over safe responses, by which it is
    divided. The plainest measure of spread, and unlike an entropy it never saturates; it takes two equally good ways
    to act for uncertainty. Flat signals need `samples` and `steps`.

    Source: Lakshminarayanan, Pritzel and Blundell (2017), arXiv:1612.01474, of ensembles' predictions.
    """

    name: ClassVar[str] = "sample_variance"
    source: ClassVar[str] = "Lakshminarayanan, Pritzel and Blundell 2017, arXiv:1612.01474"

    def __init__(self, signal: str = "actions", *, samples: int = 0, steps: int = 0) -> None:
        self.reads = (signal,)
        self.samples, self.steps = samples, steps
        self._chunks: Chunks | None = None
        self._ranges: NDArray[np.float64] = np.zeros(0)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Take the ranges. Raises SignalError when there is one sample, or no dimension moves."""
        del seed
        self._chunks = Chunks.of(safe, self.reads[0], self.samples, self.steps)
        self._ranges = self._chunks.ranges(safe, self.reads[0])
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, S H A) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        chunks = fitted(self._chunks, self.name)
        actions = op.div(chunks.apart(signals[0]), op.const(self._ranges.astype(np.float32)))
        apart = op.sub(actions, op.reduce_mean(actions, op.const(np.array([1])), keepdims=1))
        squares = op.flatten(op.mul(apart, apart), axis=1)
        return op.reduce_mean(squares, op.const(np.array([1])), keepdims=1)
