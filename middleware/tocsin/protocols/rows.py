"""The signals of responses as rows that can be stacked, whatever protocol they came by."""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tocsin.protocols.datatypes import to_float32

Rows = dict[str, NDArray[np.float32]]
Kind = tuple[str, str, tuple[int, ...]]  # a signal's name, datatype and one row's shape

KEPT_LAYOUTS = 4096  # message layouts remembered at a time


class Family:
    """Responses of one model whose rows can be stacked: each signal's name, datatype and one row's shape.

    `model` is whoever judges them.
    """

    def __init__(self, model: Any, signals: tuple[Kind, ...]) -> None:
        self.model = model
        self.signals = signals
        self.shapes = {name: shape for name, _, shape in signals}
        self._signals = [(name, datatype, prod(shape)) for name, datatype, shape in signals]
        datatypes = {datatype for _, datatype, _ in signals}
        self._datatype = datatypes.pop() if len(datatypes) == 1 else None
        self._width = sum(width for _, _, width in self._signals)

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
