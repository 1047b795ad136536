"""Mahalanobis distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.detector import fitted
from tocsin_detectors.moments import mean_of, shrunk_whitening

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class Mahalanobis:
    """d(x)^2 = (x - m)^T S^-1 (x - m), squared standard deviations: how far an embedding lies from safe ones.

    Reads an embedding or features, (n, D). Learns the mean m and the covariance S, whose correlations are shrunk by
    Ledoit and Wolf's rule, so that fewer rows than dimensions and constant dimensions are no obstacle. The units of the
    dimensions do not matter: one that moved in fitting may be multiplied by any constant, and every score stays as it
    was. Rotations do matter, as shrinking looks at single dimensions. Works when safe embeddings form one cloud; with
    far-apart clusters it overlooks the space between them.

    Source: Mahalanobis (1936); on networks' features, Lee et al. (2018), arXiv:1807.03888; shrinkage,
    Ledoit and Wolf (2004), doi:10.1016/S0047-259X(03)00096-4.
    """

    name: ClassVar[str] = "mahalanobis"
    source: ClassVar[str] = "Mahalanobis 1936; Lee et al. 2018, arXiv:1807.03888"

    def __init__(self, signal: str = "embedding") -> None:
        self.reads = (signal,)
        self._whiten: NDArray[np.float64] | None = None
        self._mean = np.zeros(0)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Estimate mean and covariance. Raises SignalError when every row is the same."""
        del seed
        signal = self.reads[0]
        self._mean = mean = mean_of(safe, signal)
        self._whiten = shrunk_whitening((batch - mean for (batch,) in safe.finite(signal)), mean, signal)
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        whiten = fitted(self._whiten, self.name)
        offset = op.const((-self._mean @ whiten).astype(np.float32))
        distance = op.gemm(signals[0], op.const(whiten.astype(np.float32)), offset)
        return op.reduce_sum_square(distance, op.const(np.array([1])), keepdims=1)
