"""What responses show: named signals, one row a response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_detectors.errors import SignalError
from tocsin_detectors.fitting import BATCH, FittingData

Float32 = NDArray[np.float32]


class Observations(FittingData, Mapping[str, Float32]):
    """The signals of n responses: each one an array of shape (n, width), float32.

    Built from anything numpy can read: integers, float16 and float64 are converted, a one-dimensional array is
    one number a response, and axes after the first are flattened (n images of 8 x 8 become (n, 64); `shape` still
    tells (8, 8)).

    Raises SignalError when a signal is not numeric, is empty, or differs from the others in its number of rows.
    """

    def __init__(self, signals: Mapping[str, ArrayLike]) -> None:
        if not signals:
            raise SignalError("there are no signals: give at least one named array")
        arrays = {name: _numeric(name, values) for name, values in signals.items()}
        rows = {name: len(values) for name, values in arrays.items()}
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{name} has {count}" for name, count in rows.items())
            raise SignalError(f"signals must have one row a response, but {counts}")
        self.rows = next(iter(rows.values()))
        self._shapes = {name: array.shape[1:] or (1,) for name, array in arrays.items()}
        self._signals = {name: _as_rows(array) for name, array in arrays.items()}

    def __getitem__(self, name: str) -> Float32:
        try:
            return self._signals[name]
        except KeyError:
            raise SignalError(f"there is no signal '{name}'; there is {self._describe()}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._signals)

    def __len__(self) -> int:
        """The number of signals; `rows` is the number of responses."""
        return len(self._signals)

    def names(self) -> tuple[str, ...]:
        return tuple(self._signals)

    def shape(self, name: str) -> tuple[int, ...]:
        self[name]
        return self._shapes[name]

    def take(self, index: NDArray[np.intp] | slice) -> Observations:
        """The responses at `index`, in that order."""
        subset = object.__new__(Observations)
        subset._signals = {name: np.ascontiguousarray(values[index]) for name, values in self._signals.items()}
        subset._shapes = self._shapes
        subset.rows = len(next(iter(subset._signals.values())))
        return subset

    def batches(self, shuffle: np.random.Generator | None = None) -> Iterator[Observations]:
        if shuffle is None and self.rows <= BATCH:
            yield self
            return
        order = np.arange(self.rows) if shuffle is None else shuffle.permutation(self.rows)
        for start in range(0, self.rows, BATCH):
            yield self.take(order[start : start + BATCH])

    def load(self) -> Observations:
        return self

    def _describe(self) -> str:
        return ", ".join(f"{name} (width {values.shape[1]})" for name, values in self._signals.items())


def _numeric(name: str, values: ArrayLike) -> NDArray[np.generic]:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise SignalError(f"signal '{name}' is of type {array.dtype}, but a detector reads numbers")
    if array.ndim == 0:
        raise SignalError(f"signal '{name}' is a single number; give an array with one row a response")
    if array.size == 0 and array.ndim > 1 and array.shape[0] > 0:
        raise SignalError(f"signal '{name}' has rows of width 0 (shape {array.shape})")
    return array


def _as_rows(array: NDArray[np.generic]) -> Float32:
    flat = array.reshape(array.shape[0], -1) if array.size else array.reshape(0, max(1, int(np.prod(array.shape[1:]))))
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused or unscored as such
        return np.ascontiguousarray(flat, dtype=np.float32)
