"""Signals whose length differs between responses, such as one number a token."""

from __future__ import annotations

import math
from typing import NamedTuple


class FreeLength(NamedTuple):
    """One axis of a response's signal is as long as it happens to be.

    While fitting, shorter responses are filled up with `padding`; at serving there is none. `axis` is the place of
    the free one in the signal's shape (0 in (tokens, alternatives), 1 in (answers, tokens)).
    """

    padding: float
    axis: int = 0

    def unit(self, shape: tuple[int, ...]) -> int:
        """How many numbers one more step along the free axis adds."""
        return math.prod(size for axis, size in enumerate(shape) if axis != self.axis)
