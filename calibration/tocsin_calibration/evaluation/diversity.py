"""Diversity of answers: how many different ones they amount to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def vendi_score(embeddings: NDArray[np.floating]) -> float:
    """The Vendi score of embeddings (n, D), from 1, where all point the same way, to n, where all are at right angles:
    exp(-sum_i l_i log l_i) of the eigenvalues l_i of K / n, where K is their cosine similarities. 0 of none.

    Raises ValueError where an embedding is zero or not finite.

    Source: Friedman and Dieng (2023), arXiv:2210.02410.

    >>> round(vendi_score(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])), 3)
    1.89
    """
    if not len(embeddings):
        return 0.0
    rows = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.all()):
        raise ValueError("an embedding must be finite and not zero")
    shares = np.linalg.svd(rows / norms, compute_uv=False) ** 2 / len(rows)  # those of K / n that are not 0
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))
