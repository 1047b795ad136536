"""The subspace that safe embeddings live in, and what lies outside it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError

EXPLAINED = 0.95  # the share of variance that the principal subspace holds, unless told how many dimensions


def residual_basis(centred: NDArray[np.float64], dimensions: int | None, signal: str) -> NDArray[np.float64]:
    """An orthonormal basis (D, D - k) of what lies outside the principal subspace of centred rows (n, D).

    k is `dimensions`, or else the fewest that hold 95% of the variance. Raises SignalError when nothing lies outside
    or the rows do not vary.
    """
    width = centred.shape[1]
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    if values[-1] <= 0:
        raise SignalError(f"signal '{signal}' is the same in every row; it spans no subspace")
    if dimensions is None:
        share = np.cumsum(values[::-1]) / values.sum()
        dimensions = min(int(np.searchsorted(share, EXPLAINED)) + 1, width - 1)
    if not 1 <= dimensions < width:
        raise SignalError(
            f"the principal subspace of '{signal}' must have 1 to {width - 1} dimensions, not {dimensions}"
        )
    basis: NDArray[np.float64] = vectors[:, : width - dimensions]
    return basis
