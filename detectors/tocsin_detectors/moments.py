"""Means and covariances of safe embeddings, however many there are: two passes, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError
from tocsin_detectors.observation import FittingData

Float64 = NDArray[np.float64]
ROUNDING = 1e-7  # of a number's size: what float32 may lose of it
TINIEST = 1e-30  # below it, one over a deviation is no float32 any more


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


def units_of(mean: Float64, deviation: Float64, instead: Float64 | None = None) -> Float64:
    """What each dimension is measured by, (D,): its own deviation, so that nothing depends on the unit it came in.

    One that never moved, rounding to float32 aside, has none; it is measured by `instead`, (D,), or else by the median
    deviation of the others: leaving it shows, and safely so.
    """
    moves = deviation > np.maximum(ROUNDING * np.abs(mean), TINIEST)
    if instead is None:
        instead = np.full(len(mean), np.median(deviation[moves if moves.any() else deviation > 0]))
    return np.where(moves, deviation, instead)


def shrunk_whitening(centred: Iterable[Float64], mean: Float64, signal: str, instead: Float64 | None = None) -> Float64:
    """W with || (x - m) W ||^2 = (x - m)^T S^-1 (x - m), (D, D), for a shrunk covariance S of centred rows.

    `centred` gives batches of rows (n, D) whose centre or centres are about as large as `mean`. Dimensions are divided
    by their units (see `units_of`), and their covariance, which then is one of correlations, is shrunk towards its mean
    variance times the identity; so S has the units of the data. The intensity minimises the expected squared error
    (Ledoit and Wolf 2004, Lemma 3.2 and Theorem 3.3). Directions without variance get a little. Raises SignalError when
    every row is its centre.
    """
    width = len(mean)
    rows, scatter, squares = 0, np.zeros((width, width)), np.zeros((width, width))
    for batch in centred:
        squared = batch**2
        scatter += batch.T @ batch
        squares += squared.T @ squared
        rows += len(batch)
    covariance: Float64 = scatter / rows
    _require_spread(covariance, mean, signal)
    units = units_of(mean, np.sqrt(np.maximum(np.diag(covariance), 0)), instead)
    both = np.outer(units, units)
    shrunk = _shrunk(covariance / both, squares / rows / both / both, rows)
    values, vectors = np.linalg.eigh(shrunk)
    white: Float64 = vectors / np.sqrt(np.maximum(values, values[-1] * 1e-9)) / units[:, None]
    return white


def _shrunk(sample: Float64, squares: Float64, rows: int) -> Float64:
    """A sample covariance (D, D) shrunk; `squares`: the means of the products of two dimensions' squares."""
    identity = np.eye(len(sample))
    target = np.trace(sample) / len(sample)
    spread = ((sample - target * identity) ** 2).sum()
    if spread == 0:
        return sample
    intensity = min(1.0, float((squares - sample**2).sum() / rows / spread))
    return np.asarray((1 - intensity) * sample + intensity * target * identity, np.float64)


def _require_spread(covariance: Float64, mean: Float64, signal: str) -> None:
    """Float64 knows the mean of equal float32 numbers to about 1e-16 of their size; what is below is no spread."""
    if not (np.sqrt(np.diag(covariance)) > 1e-12 * np.abs(mean)).any():
        raise SignalError(f"signal '{signal}' is the same in every row; there is nothing to measure it by")
