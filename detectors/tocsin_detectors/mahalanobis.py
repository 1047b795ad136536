"""Mahalanobis distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import Observations


class Mahalanobis:
    """d(x)^2 = (x - m)^T S^-1 (x - m), squared standard deviations: how far an embedding lies from safe ones.

    Reads an embedding or features, (n, D). Learns the mean m and the covariance S, shrunk towards a multiple of the
    identity by Ledoit and Wolf's rule, so that fewer rows than dimensions and constant dimensions are no obstacle.
    Works when safe embeddings form one cloud; with far-apart clusters it overlooks the space between them.

    Source: Mahalanobis (1936); on networks' features, Lee et al. (2018), arXiv:1807.03888; shrinkage,
    Ledoit and Wolf (2004), doi:10.1016/S0047-259X(03)00096-4.
    """

    name: ClassVar[str] = "mahalanobis"
    source: ClassVar[str] = "Mahalanobis 1936; Lee et al. 2018, arXiv:1807.03888"

    def __init__(self, signal: str = "embedding") -> None:
        self.reads = (signal,)
        self._whiten: NDArray[np.float64] | None = None
        self._mean: NDArray[np.float64] | None = None

    def fit(self, safe: Observations, *, seed: int = 0) -> Self:
        """Estimate mean and covariance. Raises SignalError when every row is the same."""
        del seed
        embedding = safe.require_finite(self.reads[0]).astype(np.float64)
        self._mean = embedding.mean(axis=0)
        covariance = ledoit_wolf(embedding - self._mean)
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] <= 0:
            raise SignalError(f"signal '{self.reads[0]}' is the same in every row; there is no distance to measure")
        floor = values[-1] * 1e-9
        self._whiten = vectors / np.sqrt(np.maximum(values, floor))
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        if self._whiten is None or self._mean is None:
            raise SignalError("mahalanobis has not been fitted")
        whiten = op.const(self._whiten.astype(np.float32))
        offset = op.const((-self._mean @ self._whiten).astype(np.float32))
        return op.reduce_sum_square(op.gemm(signals[0], whiten, offset), op.const(np.array([1])), keepdims=1)


def ledoit_wolf(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """The covariance of centred rows (n, D), shrunk towards its mean variance times the identity: (D, D).

    The intensity minimises the expected squared error (Ledoit and Wolf 2004, Lemma 3.2 and Theorem 3.3).
    """
    rows, width = centred.shape
    sample: NDArray[np.float64] = centred.T @ centred / rows
    target = np.trace(sample) / width
    spread = ((sample - target * np.eye(width)) ** 2).sum()
    if spread == 0:
        return sample
    squared = centred**2
    error = ((squared.T @ squared) / rows - sample**2).sum() / rows
    intensity = min(1.0, error / spread)
    shrunk: NDArray[np.float64] = (1 - intensity) * sample + intensity * target * np.eye(width)
    return shrunk
