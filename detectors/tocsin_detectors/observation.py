"""What responses show: named signals, one row a response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_detectors.errors import SignalError

Float32 = NDArray[np.float32]


class Observations(Mapping[str, Float32]):
    """The signals of n responses: each one an array of shape (n, width), float32.

    Built from anything numpy can read: integers, float16 and float64 are converted, a one-dimensional array is
    one number a response, and axes after the first are flattened (an (n, 8, 8) image becomes (n, 64)).

    Raises SignalError when a signal is not numeric, is empty, or differs from the others in its number of rows.
    """

    def __init__(self, signals: Mapping[str, ArrayLike]) -> None:
        if not signals:
            raise SignalError("there are no signals: give at least one named array")
        self._signals = {name: _as_rows(name, values) for name, values in signals.items()}
        rows = {name: len(values) for name, values in self._signals.items()}
        if len(set(rows.values())) > 1:
            told = ", ".join(f"{name} has {count}" for name, count in rows.items())
            raise SignalError(f"signals must have one row a response, but {told}")
        self.rows = next(iter(rows.values()))

    def __getitem__(self, name: str) -> Float32:
        try:
            return self._signals[name]
        except KeyError:
            told = ", ".join(f"{known} (width {v.shape[1]})" for known, v in self._signals.items())
            raise SignalError(f"there is no signal '{name}'; there is {told}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._signals)

    def __len__(self) -> int:
        """The number of signals; `rows` is the number of responses."""
        return len(self._signals)

    def take(self, index: NDArray[np.intp] | slice) -> Observations:
        """The responses at `index`, in that order."""
        return Observations({name: values[index] for name, values in self._signals.items()})

    def require_finite(self, name: str) -> Float32:
        """The signal, checked for fitting: at least two rows and no NaN or infinity.

        Raises SignalError naming the first offending row.
        """
        values = self[name]
        if len(values) < 2:
            raise SignalError(f"signal '{name}' has {len(values)} rows; fitting needs at least 2")
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if broken.size:
            raise SignalError(
                f"signal '{name}' holds NaN or infinity in {broken.size} of {len(values)} rows (the first is row "
                f"{broken[0]}); leave those responses out of the fitting data"
            )
        return values

    def require_distribution(self, name: str) -> Float32:
        """The signal, checked as `require_finite` does and for class probabilities: (n, C), C >= 2, rows sum to 1.

        Raises SignalError naming the first row that is no distribution.
        """
        probs = self.require_finite(name)
        if probs.shape[1] < 2:
            raise SignalError(f"signal '{name}' must hold at least two classes, not {probs.shape[1]}")
        sums = probs.sum(axis=1, dtype=np.float64)
        wrong = np.flatnonzero((probs < 0).any(axis=1) | (np.abs(sums - 1) > 1e-2))
        if wrong.size:
            raise SignalError(
                f"signal '{name}' is not a distribution in {wrong.size} of {len(probs)} rows (row {wrong[0]} sums to "
                f"{sums[wrong[0]]:.4g}); if these are logits, use a detector that reads logits, or apply softmax"
            )
        return probs


def _as_rows(name: str, values: ArrayLike) -> Float32:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise SignalError(f"signal '{name}' is of type {array.dtype}, but a detector reads numbers")
    if array.ndim == 0:
        raise SignalError(f"signal '{name}' is a single number; give an array with one row a response")
    if array.size == 0 and array.ndim > 1 and array.shape[0] > 0:
        raise SignalError(f"signal '{name}' has rows of width 0 (shape {array.shape})")
    flat = array.reshape(array.shape[0], -1) if array.size else array.reshape(0, max(1, int(np.prod(array.shape[1:]))))
    return np.ascontiguousarray(flat, dtype=np.float32)
