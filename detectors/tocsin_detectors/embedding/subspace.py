"""The subspace that safe embeddings live in, and how far an embedding lies outside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError
from tocsin_detectors.moments import moments as moments_of

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

EXPLAINED = 0.95  # the share of variance that the principal subspace holds, unless told how many dimensions


class Residual:
    """|| (I - V V^T)(x - m) ||_2 for the mean m and the principal directions V of safe embeddings (n, D).

    V has `dimensions` columns, or else the fewest that hold 95% of the variance. Raises SignalError when nothing lies
    outside, or the rows do not vary.
    """

    def __init__(self, safe: FittingData, signal: str, dimensions: int | None) -> None:
        moments = moments_of(safe, signal)
        self._mean = moments.mean
        self._outside = _outside(moments.covariance, dimensions, signal)

    def norms(self, embedding: NDArray[np.float64]) -> NDArray[np.float64]:
        """The residual's length of each row (n, D): (n,), >= 0."""
        lengths: NDArray[np.float64] = np.linalg.norm((embedding - self._mean) @ self._outside, axis=1)
        return lengths

    def scale(self, factor: float) -> None:
        """From here on measure in another unit: every length times `factor`."""
        self._outside = self._outside * factor

    def graph(self, embedding: Var) -> Var:
        """(n, D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        outside = op.const(self._outside.astype(np.float32))
        offset = op.const((-self._mean @ self._outside).astype(np.float32))
        return op.reduce_l2(op.gemm(embedding, outside, offset), op.const(np.array([1])), keepdims=1)


def _outside(covariance: NDArray[np.float64], dimensions: int | None, signal: str) -> NDArray[np.float64]:
    """An orthonormal basis (D, D - k) of what lies outside the k principal directions."""
    width = len(covariance)
    values, vectors = np.linalg.eigh(covariance)
    if dimensions is None:
        share = np.cumsum(values[::-1]) / values.sum()
        dimensions = min(int(np.searchsorted(share, EXPLAINED)) + 1, width - 1)
    if not 1 <= dimensions < width:
        raise SignalError(
            f"the principal subspace of '{signal}' must have 1 to {width - 1} dimensions, not {dimensions}"
        )
    basis: NDArray[np.float64] = vectors[:, : width - dimensions]
    return basis
