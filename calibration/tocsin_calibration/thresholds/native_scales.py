"""Few scores at a time, looked up by `_scales.c`, which is there where Tocsin was installed with its compiled parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.thresholds.joint import JointScore

# Joint scores (n,) and p-values (n, d) of scores (n, d), as JointScore.of gives them; None for another kind of array.
Lookup = Callable[[NDArray[np.floating]], "tuple[list[float], list[list[float]]] | None"]

MOST_ROWS: Final = 64  # from about here on numpy's calls are worth their price
_MOST_DETECTORS: Final = 256


def lookup_of(score: JointScore) -> Lookup | None:
    """A function that does the same as `score.of` for every row of an array, to the bit. None where it is not
    installed, or there are too many detectors.
    """
    scales = load_scales()
    if scales is None or len(score.scales) > _MOST_DETECTORS:
        return None
    lengths = np.array([len(scale.start) for scale in score.scales], np.int64)
    arrays: list[NDArray[np.float64]] = []
    for scale in score.scales:
        arrays += [scale.knots, scale.start, scale.value, scale.slope, scale.p_at_least]
    lookup: Lookup = scales.Scales(lengths.tobytes(), _doubles(arrays), _doubles([score.weights]), score.needed).of
    return lookup


def load_scales() -> Any:
    """The compiled module, or None where Tocsin was installed without it."""
    try:
        return import_module("tocsin_calibration.thresholds._scales")
    except ImportError:
        return None


def _doubles(arrays: Sequence[Any]) -> bytes:
    return b"".join([np.asarray(array, np.float64).tobytes() for array in arrays])
