"""Classes that a response itself names: its likeliest choice, or a label that stands among its signals."""

from __future__ import annotations

from functools import lru_cache
from math import isnan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FEW = 128  # values of all rows: up to here plain Python is quicker than numpy's calls


class Classes(NamedTuple):
    """The signal that names a response's class, and its width: of several numbers (probabilities, logits) the place of
    the largest, from 0; a single number is the label itself.

    The class is a fixed function of the response, so that those of a class are exchangeable with its calibration
    responses where all are (Mondrian conformal prediction: Vovk, Gammerman and Shafer 2005, section 4.5).
    """

    signal: str
    width: int

    def of(self, values: NDArray[np.floating], *, is_finite: bool = False) -> list[str]:
        """The names (n,) of the classes of a signal's values (n, width): "3"; "" where a value is NaN. `is_finite`: no
        value is, by what was looked at before.
        """
        if self.width > 1:
            names = _places(self.width)
            if is_finite and values.size <= FEW:
                return [names[row.index(max(row))] for row in values.tolist()]
            result = [names[place] for place in values.argmax(1).tolist()]
        else:
            result = [f"{value:g}" for value in values.ravel().tolist()]
        if is_finite:
            return result
        flat = values.ravel()
        if isnan(flat.dot(flat)):
            for row in np.flatnonzero(np.isnan(values).any(axis=1)).tolist():
                result[row] = ""
        return result


@lru_cache(maxsize=16)
def _places(width: int) -> tuple[str, ...]:
    return tuple(map(str, range(width)))
