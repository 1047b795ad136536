"""The signals of responses as rows that can be stacked, whatever protocol they came by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tocsin.protocols.datatypes import to_float32
from tocsin.unscored import Unscored

Rows = dict[str, NDArray[np.float32]]
Kind = tuple[str, str, tuple[int, ...]]  # a signal's name, datatype and one row's shape

KEPT_LAYOUTS: Final = 4096  # message layouts remembered at a time


class Family:
    """Responses of one model whose rows can be stacked: each signal's name, datatype and one row's shape.

    `model` is whoever judges them.
    """

    def __init__(self, model: Any, signals: tuple[Kind, ...]) -> None:
        self.model = model
        self.signals = signals
        self.shapes = {name: shape for name, _, shape in signals}
        self.widths = {name: prod(shape) for name, _, shape in signals}
        self._signals = [(name, datatype, prod(shape)) for name, datatype, shape in signals]
        datatypes = {datatype for _, datatype, _ in signals}
        self._datatype = datatypes.pop() if len(datatypes) == 1 else None
        self.is_float32 = self._datatype == "FP32"
        self._width = sum(width for _, _, width in self._signals)
        self._orders: dict[tuple[str, ...], tuple[int, ...]] = {}

    def order(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Where each of these signals is among those of the responses."""
        order = self._orders.get(names)
        if order is None:
            places = {name: at for at, (name, _, _) in enumerate(self.signals)}
            order = self._orders[names] = tuple(places[name] for name in names)
        return order

    def stack(self, raws: list[list[bytes]]) -> Rows:
        """The signals of several responses, (rows of all, width), from their raw contents, a list a response."""
        columns = list(zip(*raws, strict=True))
        if self._datatype is None:
            return {
                name: to_float32(b"".join(column), datatype).reshape(-1, width)
                for (name, datatype, width), column in zip(self._signals, columns, strict=True)
            }
        # All of one datatype, as models usually answer: converted at once, each signal a part of one array.
        values = to_float32(b"".join(chain.from_iterable(columns)), self._datatype)
        rows = len(values) // self._width
        stacked, start = {}, 0
        for name, _, width in self._signals:
            stacked[name] = np.ndarray((rows, width), np.float32, values, start)
            start += 4 * rows * width
        return stacked


class Stacking:
    """Responses of one family, stacked when somebody asks for their signals: few rows are scored without.

    `contents` is a list of raw contents a response, until it is stacked; `rows` is how many rows all of them have.
    """

    __slots__ = ("_stacked", "contents", "family", "rows")

    def __init__(self, family: Family, contents: list[list[bytes]], rows: int) -> None:
        self.family = family
        self.contents = contents
        self.rows = rows
        self._stacked: Rows | None = None

    def signals(self) -> Rows:
        """The signals, (rows of all, width) each."""
        stacked = self._stacked
        if stacked is None:
            stacked = self._stacked = self.family.stack(self.contents)
            self.contents = []  # a batch may wait to be counted: its bytes are not kept twice
        return stacked


Reading = tuple[int, Family, list[bytes]]  # what a response shows: its rows, their family, each signal's contents


class Shapes(Protocol):
    """Whoever knows which widths its detectors were fitted on, and keeps the families of its responses."""

    def rows(self, signal: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """How many rows values of that shape are, and one row's shape."""
        ...

    def width(self, signal: str) -> int:
        """The width of a row that detectors were fitted on, 0 where that is free."""
        ...

    def misfit(self, signal: str, width: int) -> str:
        """Why rows of that width cannot be scored; empty when they can."""
        ...

    def family(self, signals: tuple[Kind, ...]) -> Family:
        """The family of responses with these signals."""
        ...


Shaped = tuple[tuple[tuple[int, ...], bool | None], ...]  # of each signal its shape, and how its first axis is meant


class RowPlans:
    """How many rows values of given shapes are, and their family; worked out once a combination of shapes."""

    def __init__(self, names: Sequence[str], shapes: Shapes) -> None:
        self._names = list(names)
        self._shapes = shapes
        self._plans: dict[Shaped, tuple[int, Family]] = {}

    def width(self, signal: str) -> int:
        """The width of a row that detectors were fitted on, 0 where that is free."""
        return self._shapes.width(signal)

    def of(self, shaped: Shaped) -> tuple[int, Family]:
        """The rows and the family of signals with these shapes, in the order of their names. Raises Unscored."""
        plan = self._plans.get(shaped)
        if plan is None:
            plan = self._plan(shaped)
            if len(self._plans) >= KEPT_LAYOUTS:
                self._plans.clear()
            self._plans[shaped] = plan
        return plan

    def _plan(self, shaped: Shaped) -> tuple[int, Family]:
        """Work out the rows and the family of signals with these shapes. Raises Unscored."""
        kinds: list[Kind] = []
        counts: dict[str, int] = {}
        for name, (shape, by_rows) in zip(self._names, shaped, strict=True):
            if by_rows is None:
                rows, row_shape = self._shapes.rows(name, shape)
            else:
                rows, row_shape = (shape[0], shape[1:] or (1,)) if by_rows else (1, shape)
            if rows and (problem := self._shapes.misfit(name, prod(row_shape))):
                raise Unscored("shape", problem)
            counts[name] = rows
            kinds.append((name, "FP32", row_shape))
        return one_count(counts), self._shapes.family(tuple(kinds))


def one_count(counts: Mapping[str, int]) -> int:
    """The number of rows that all signals have. Raises Unscored `rows` when they differ, or there are none."""
    if len(set(counts.values())) != 1 or not next(iter(counts.values())):
        listed = ", ".join(f"{count} rows of '{signal}'" for signal, count in counts.items())
        raise Unscored("rows", f"the response has {listed}; each response needs one row of each")
    return next(iter(counts.values()))
