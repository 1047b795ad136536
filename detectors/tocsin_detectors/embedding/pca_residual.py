"""Residual of principal component analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from tocsin_detectors.detector import fitted
from tocsin_detectors.embedding.subspace import Residual

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class PCAResidual:
    """|| (I - V V^T)(x - m) ||_2, in the embedding's unit: how far an embedding leaves the safe ones' subspace.

    Reads an embedding or features, (n, D). Learns the mean m and the principal directions V, as many as hold 95% of
    the variance, or `dimensions` of them. Works where safe embeddings fill few of their dimensions; blind to what is
    far away inside the subspace. The dimensions must share a unit.

    Source: Jackson and Mudholkar (1979), doi:10.1080/00401706.1979.10489779 (the Q statistic).
    """

    name: ClassVar[str] = "pca_residual"
    source: ClassVar[str] = "Jackson and Mudholkar 1979, doi:10.1080/00401706.1979.10489779"

    def __init__(self, signal: str = "embedding", *, dimensions: int | None = None) -> None:
        self.reads = (signal,)
        self.dimensions = dimensions
        self._residual: Residual | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Find the subspace. Raises SignalError when rows do not vary, or nothing is left outside it."""
        del seed
        self._residual = Residual(safe, self.reads[0], self.dimensions)
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        return fitted(self._residual, self.name).graph(signals[0])
