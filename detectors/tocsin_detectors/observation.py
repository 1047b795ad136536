"""What responses show: named signals, one row a response, in memory or read from disk batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_detectors.errors import SignalError

BATCH = 65_536  # rows in memory at once
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class FittingData(ABC):
    """Safe responses. A detector reads them through `finite` and `distributions`, a batch at a time, or through
    `sample`, which holds no more rows in memory than asked for; so it can be fitted on more data than memory holds.
    """

    rows: int
    """The number of responses."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The signals there are."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one response's signal, such as (8, 8). Raises SignalError when there is no such signal."""

    @abstractmethod
    def batches(self, shuffle: np.random.Generator | None = None) -> Iterator[Observations]:
        """Every response once, in order or shuffled (within what memory holds), in batches of any size."""

    @abstractmethod
    def take(self, index: NDArray[np.intp]) -> FittingData:
        """The responses at `index`, ascending positions."""

    def width(self, name: str) -> int:
        """How many numbers one response's signal holds."""
        return int(np.prod(self.shape(name), dtype=int))

    def load(self) -> Observations:
        """All of it in memory."""
        every = list(self.batches())
        if len(every) == 1:
            return every[0]
        return Observations(
            {
                name: np.concatenate([batch[name].reshape(-1, *self.shape(name)) for batch in every])
                for name in self.names()
            }
        )

    def sample(self, rows: int, *, seed: int) -> Observations:
        """Up to `rows` responses in memory, drawn by the seed without replacement."""
        if rows >= self.rows:
            return self.load()
        return self.take(np.sort(np.random.default_rng(seed).choice(self.rows, rows, replace=False))).load()

    def finite(self, *names: str, masked: bool = False) -> Iterator[tuple[Float64, ...]]:
        """The signals batch by batch, each (rows, width), float64, checked for fitting.

        Raises SignalError: fewer than two rows, or NaN or infinity, naming the first offending row. `masked`: -inf is
        the logarithm of a probability of 0, and passes.
        """
        for name in names:
            self.shape(name)
        if self.rows < 2:
            raise SignalError(f"signal '{names[0]}' has {self.rows} rows; fitting needs at least 2")
        before = 0
        for batch in self.batches():
            for name in names:
                _require_finite(name, batch[name], before, masked)
            yield tuple(batch[name].astype(np.float64) for name in names)
            before += batch.rows

    def distributions(self, name: str) -> Iterator[Float64]:
        """Batches as `finite` gives them, also checked for class probabilities: C >= 2, rows sum to 1.

        Raises SignalError naming the first row that is no distribution.
        """
        if self.width(name) < 2:
            raise SignalError(f"signal '{name}' must hold at least two classes, not {self.width(name)}")
        before = 0
        for (probs,) in self.finite(name):
            sums = probs.sum(axis=1)
            wrong = np.flatnonzero((probs < 0).any(axis=1) | (np.abs(sums - 1) > 1e-2))
            if wrong.size:
                raise SignalError(
                    f"signal '{name}' is not a distribution in {wrong.size} of {len(probs)} rows (row "
                    f"{before + wrong[0]} sums to {sums[wrong[0]]:.4g}); if these are logits, use a detector that "
                    f"reads logits, or apply softmax"
                )
            yield probs
            before += len(probs)

    def require_finite(self, *names: str) -> None:
        """Look through the signals as `finite` does, for detectors that learn nothing from them."""
        for _ in self.finite(*names):
            pass

    def require_distribution(self, name: str) -> None:
        """Look through the signal as `distributions` does, for detectors that learn nothing from it."""
        for _ in self.distributions(name):
            pass


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
    """An array of numbers with a row a response. Raises SignalError, naming the signal."""
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


def _require_finite(name: str, values: NDArray[np.float32], before: int, masked: bool) -> None:
    broken = np.flatnonzero(~(values < np.inf if masked else np.isfinite(values)).all(axis=1))
    if broken.size:
        raise SignalError(
            f"signal '{name}' holds NaN or infinity in {broken.size} of {len(values)} rows (the first is row "
            f"{before + broken[0]}); leave those responses out (tocsin fit --leave-out-broken does)"
        )
