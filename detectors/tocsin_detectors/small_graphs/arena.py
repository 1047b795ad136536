"""Where values are: the arena of a plan, and the operands and steps that `_steps.c` reads."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.small_graphs.unsupported import Unsupported

PLACES = 1 << 18  # doubles of an arena
WEIGHTS = 1 << 20  # float32 values of all matrices
TABLE = 1 << 18  # entries of all tables
WORK = 1 << 18  # multiplications, and values that are touched, for one row: some tenth of a millisecond
STEPS = 1 << 10

Places = NDArray[np.int32]
Arrays = tuple[int, bytes, bytes, bytes, bytes, bytes, bytes]  # the arguments of _steps.Plan


class Operation(IntEnum):
    """As `enum operation` in _steps.c."""

    UNARY = 0
    BINARY = 1
    WHERE = 2
    REDUCE = 3
    SOFTMAX = 4
    PRODUCT = 5
    GEMM = 6
    TOP_K = 7
    CUMULATE = 8


FULL, REPEATED, IN_TABLE = 0, 1, 2  # as `enum form` in _steps.c


class Value(NamedTuple):
    """A tensor: the places of its elements in the arena, and its type.

    The first axis of a value of a row is the batch, of length 1. A constant has its own shape, and its `constant`.
    """

    places: Places
    dtype: np.dtype[Any]
    is_of_row: bool
    constant: NDArray[Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """With 1 for the batch."""
        return self.places.shape

    def moved(self, places: Places) -> Value:
        """The same elements, or some of them, in another order or shape."""
        if places.size > PLACES:
            raise Unsupported("a value is large")
        return Value(places.astype(np.int32, copy=False), self.dtype, self.is_of_row)


class Arena:
    """Collects what a plan is made of: places of constants and results, tables, weights and steps.

    Constants get their places last, behind everything else, as nobody knows before how many are needed: a negative
    place -1 - k stands for the k-th constant until `arrays` puts them first.
    """

    def __init__(self) -> None:
        self._constants: list[NDArray[np.float64]] = []
        self._interned: dict[bytes, int] = {}
        self._n_constants = self._results = self._work = 0
        self._weights: list[NDArray[np.float32]] = []
        self._n_weights = 0
        self._tables: list[Places] = []
        self._n_tables = 0
        self._steps: list[list[int]] = []

    def constant(self, values: NDArray[Any]) -> Value:
        """A constant's places; equal numbers share one."""
        if values.size > PLACES:
            raise Unsupported("a constant is large")
        numbers = np.ascontiguousarray(values, np.float64)
        first = self._interned.get(numbers.tobytes())
        if first is None:
            first = self._interned[numbers.tobytes()] = self._n_constants
            self._constants.append(numbers.ravel())
            self._n_constants += values.size
        if self._n_constants > PLACES:
            raise Unsupported("the graph's constants are large")
        places = (-1 - first - np.arange(values.size)).astype(np.int32)
        return Value(places.reshape(values.shape), values.dtype, False, values)

    def result(self, shape: Sequence[int], dtype: Any) -> Value:
        """Adjacent places for what a step computes for a row."""
        size = int(np.prod(shape, dtype=np.int64))
        if size < 1 or self._results + size > PLACES:
            raise Unsupported("a row's values take too much memory, or none")
        places = np.arange(self._results, self._results + size, dtype=np.int32).reshape(tuple(shape))
        self._results += size
        return Value(places, np.dtype(dtype), True)

    def weights(self, values: NDArray[Any]) -> int:
        """Where the float32 values of a matrix or a bias begin."""
        if self._n_weights + values.size > WEIGHTS:
            raise Unsupported("the graph's matrices are large")
        self._weights.append(np.ascontiguousarray(values, np.float32).ravel())
        self._n_weights += values.size
        return self._n_weights - values.size

    def step(
        self,
        operation: Operation,
        out: Value,
        operands: Sequence[Places],
        sizes: Sequence[int],
        *,
        kind: int = 0,
        work: int = 0,
        weights: Sequence[int] = (),
    ) -> None:
        """Add a step. `work`: how many multiplications it takes, where that is more than the values it reads."""
        self._work += max(work, out.places.size, *(places.size for places in operands))
        if self._work > WORK or len(self._steps) >= STEPS:
            raise Unsupported("a row takes long")
        forms = [self._operand(places, operation) for places in operands] + [(FULL, at) for at in weights]
        forms += [(FULL, 0)] * (3 - len(forms))
        rounds = int(out.dtype == np.float32)
        record = [operation, kind, rounds, int(out.places.flat[0]), *(f for f, _ in forms), *(at for _, at in forms)]
        self._steps.append([*record, *sizes, *[0] * (4 - len(sizes))])

    def arrays(self, inputs: Sequence[tuple[Value, bool]], output: Value) -> Arrays:
        """The arguments of `_steps.Plan`. `inputs`: those of a row, and whether -inf is a value in them."""
        constants = self._n_constants

        def final(places: Places) -> Places:
            return np.where(places < 0, -1 - places, places + constants).astype(np.int32)

        steps = np.array(self._steps, np.int32).reshape(-1, 14)
        steps[:, 3] += constants
        for operand in range(3):
            in_arena = steps[:, 4 + operand] != IN_TABLE
            if operand:
                in_arena &= steps[:, 0] != Operation.GEMM  # their places are of weights
            steps[in_arena, 7 + operand] = final(steps[in_arena, 7 + operand])
        heads = [[int(final(value.places).flat[0]), value.places.size, int(masked)] for value, masked in inputs]
        return (
            constants + self._results,
            b"".join(numbers.tobytes() for numbers in self._constants),
            b"".join(weights.tobytes() for weights in self._weights),
            final(np.concatenate([np.zeros(0, np.int32), *self._tables])).tobytes(),
            steps.tobytes(),
            np.array(heads, np.int32).tobytes(),
            final(output.places).tobytes(),
        )

    def _operand(self, places: Places, operation: Operation) -> tuple[int, int]:
        """Form and place of an operand."""
        flat = places.ravel()
        first = int(flat[0])
        if flat.size == 1 or (operation <= Operation.WHERE and (flat == first).all()):
            return REPEATED, first
        onward = first + (1 if first >= 0 else -1) * np.arange(flat.size)
        if (flat == onward).all():
            return FULL, first
        if self._n_tables + flat.size > TABLE:
            raise Unsupported("values are moved about too much")
        self._tables.append(flat.astype(np.int32))
        self._n_tables += flat.size
        return IN_TABLE, self._n_tables - flat.size
