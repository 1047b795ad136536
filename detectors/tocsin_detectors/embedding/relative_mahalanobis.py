"""Relative Mahalanobis distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.detector import fitted
from tocsin_detectors.embedding.classes import centred, class_means
from tocsin_detectors.moments import moments, shrunk_whitening, units_of

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

Float64 = NDArray[np.float64]


class RelativeMahalanobis:
    """min_k d_k(x)^2 - d_0(x)^2: distance to the nearest class, less the distance to all embeddings together.

    Reads an embedding, (n, D); fitting also looks at logits or probabilities, (n, C), for the class that the model
    gave each safe response. d_k uses the class mean and one covariance within classes, d_0 the mean and covariance of
    everything, each shrunk as in `mahalanobis`, so that the units of the dimensions do not matter. What varies alike in
    all classes cancels, so near shifts show; what is far from everything in such a direction cancels too. Can be
    negative.

    Source: Ren, Fort, Liu, Roy, Padhy and Lakshminarayanan (2021), arXiv:2106.09022.
    """

    name: ClassVar[str] = "relative_mahalanobis"
    source: ClassVar[str] = "Ren et al. 2021, arXiv:2106.09022"

    def __init__(self, signal: str = "embedding", classes: str = "logits") -> None:
        self.reads, self.fits_on = (signal,), (classes,)
        self._means: Float64 | None = None  # (K, D)
        self._within = self._overall = np.zeros((0, 0))  # whitening matrices (D, D)
        self._mean = np.zeros(0)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Estimate means and covariances. Raises SignalError when there is one class, or every row is the same."""
        del seed
        signal, classes = self.reads[0], self.fits_on[0]
        background = moments(safe, signal)
        self._mean = mean = background.mean
        self._within = shrunk_whitening(
            centred(safe, signal, classes), mean, signal, units_of(mean, background.deviation)
        )
        self._overall = shrunk_whitening((batch - mean for (batch,) in safe.finite(signal)), mean, signal)
        _, self._means = class_means(safe, signal, classes)
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        # Around the overall mean, where float32 is precise: d_k^2 = |y|^2 - 2 y.m_k + |m_k|^2 with y = (x - m) W.
        centres = (fitted(self._means, self.name) - self._mean) @ self._within
        columns = op.const(np.array([1]))
        white = _whitened(signals[0], self._mean, self._within)
        pull, offset = (-2 * centres.T).astype(np.float32), (centres**2).sum(axis=1).astype(np.float32)
        nearest = op.reduce_min(op.gemm(white, op.const(pull), op.const(offset)), columns, keepdims=1)
        nearest_distance = op.add(op.reduce_sum_square(white, columns, keepdims=1), nearest)
        everything = _whitened(signals[0], self._mean, self._overall)
        return op.sub(nearest_distance, op.reduce_sum_square(everything, columns, keepdims=1))


def _whitened(x: Var, mean: Float64, whiten: Float64) -> Var:
    import spox.opset.ai.onnx.v18 as op

    offset = op.const((-mean @ whiten).astype(np.float32))
    return op.gemm(x, op.const(whiten.astype(np.float32)), offset)
