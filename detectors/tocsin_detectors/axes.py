"""Signals with several axes a response, which graphs see flattened."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from tocsin_detectors.observation import FittingData


def axes_of(safe: FittingData, signal: str, **given: int) -> tuple[int, ...]:
    """The size of each axis of a response's signal, in the order of `given`, which names them.

    A size of 0 is to be found out: from the signal's shape, or, where that is flat, from its width and the others.
    Raises SignalError saying which setting would help.
    """
    shape, sizes = safe.shape(signal), list(given.values())
    if len(shape) != len(sizes):
        width, product = safe.width(signal), math.prod(size for size in sizes if size)
        if sizes.count(0) > 1 or width % product:
            sizes_text = ", ".join(f"{name}={size or '?'}" for name, size in given.items())
            raise SignalError(
                f"signal '{signal}' has {width} numbers a response in the shape {list(shape)}, which does not say how "
                f"they divide into {sizes_text}; give all but one of these"
            )
        shape = tuple(size or width // product for size in sizes)
    for (name, size), actual in zip(given.items(), shape, strict=True):
        if size and size != actual:
            raise SignalError(f"signal '{signal}' has the shape {list(shape)}, where {name} is {actual}, not {size}")
    return tuple(shape)
