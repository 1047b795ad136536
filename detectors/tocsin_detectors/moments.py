"""Means and covariances of safe embeddings, however many there are: two passes, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError
from tocsin_detectors.fitting import FittingData

Float64 = NDArray[np.float64]


class Moments(NamedTuple):
    """Rows, mean (D,) and sample covariance (D, D), divided by the number of rows."""

    rows: int
    mean: Float64
    covariance: Float64

    @property
    def deviation(self) -> Float64:
        """Standard deviation of each dimension, (D,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0))


def moments(safe: FittingData, signal: str) -> Moments:
    """Of one signal. Raises SignalError when it is not finite or every row is the same."""
    mean = mean_of(safe, signal)
    scatter = np.zeros((len(mean), len(mean)))
    for (batch,) in safe.finite(signal):
        centred = batch - mean
        scatter += centred.T @ centred
    _require_spread(scatter / safe.rows, mean, signal)
    return Moments(safe.rows, mean, scatter / safe.rows)


def mean_of(safe: FittingData, signal: str) -> Float64:
    """The mean of one signal, (D,)."""
    total = np.zeros(safe.width(signal))
    for (batch,) in safe.finite(signal):
        total += batch.sum(axis=0)
    return total / safe.rows


def shrunk_covariance(centred: Iterable[Float64], mean: Float64, signal: str) -> Float64:
    """The covariance of centred rows, shrunk towards its mean variance times the identity: (D, D).

    `centred` gives batches of rows (n, D) whose centre or centres are about as large as `mean`. The intensity
    minimises the expected squared error (Ledoit and Wolf 2004, Lemma 3.2 and Theorem 3.3). Raises SignalError when
    every row is its centre.
    """
    width = len(mean)
    rows, scatter, squares = 0, np.zeros((width, width)), np.zeros((width, width))
    for batch in centred:
        squared = batch**2
        scatter += batch.T @ batch
        squares += squared.T @ squared
        rows += len(batch)
    sample: Float64 = scatter / rows
    _require_spread(sample, mean, signal)
    target = np.trace(sample) / width
    spread = ((sample - target * np.eye(width)) ** 2).sum()
    if spread == 0:
        return sample
    error = (squares / rows - sample**2).sum() / rows
    intensity = min(1.0, error / spread)
    shrunk: Float64 = (1 - intensity) * sample + intensity * target * np.eye(width)
    return shrunk


def whitening(covariance: Float64) -> Float64:
    """W with || (x - m) W ||^2 = (x - m)^T S^-1 (x - m): (D, D). Directions without variance get a little."""
    values, vectors = np.linalg.eigh(covariance)
    white: Float64 = vectors / np.sqrt(np.maximum(values, values[-1] * 1e-9))
    return white


def _require_spread(covariance: Float64, mean: Float64, signal: str) -> None:
    """Float64 knows the mean of equal float32 numbers to about 1e-16 of their size; what is below is no spread."""
    if np.sqrt(np.diag(covariance).max()) <= 1e-12 * np.abs(mean).max():
        raise SignalError(f"signal '{signal}' is the same in every row; there is nothing to measure it by")
