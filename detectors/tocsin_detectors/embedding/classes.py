"""Safe embeddings by the class that the model gave them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from tocsin_detectors.observation import FittingData

Float64 = NDArray[np.float64]


def class_means(safe: FittingData, embedding: str, classes: str) -> tuple[NDArray[np.intp], Float64]:
    """The classes that are on top of some safe response, and the mean embedding of each: (K,), (K, D).

    `classes` is a signal with a number a class, (n, C): logits or probabilities. Raises SignalError when only one
    class ever is on top, or the signals are not finite.
    """
    width = safe.width(classes)
    sums, counts = np.zeros((width, safe.width(embedding))), np.zeros(width)
    for rows, evidence in safe.finite(embedding, classes):
        top = np.eye(width)[evidence.argmax(axis=1)]
        sums += top.T @ rows
        counts += top.sum(axis=0)
    present = np.flatnonzero(counts)
    if len(present) < 2:
        raise SignalError(
            f"by signal '{classes}' every safe response is of class {present[0]}; a detector by classes needs two"
        )
    return present, sums[present] / counts[present, None]


def centred(safe: FittingData, embedding: str, classes: str) -> Iterator[Float64]:
    """Embeddings minus the mean of their class, batch by batch, each (rows, D)."""
    present, means = class_means(safe, embedding, classes)
    place = np.zeros(safe.width(classes), np.intp)
    place[present] = np.arange(len(present))
    for rows, evidence in safe.finite(embedding, classes):
        yield rows - means[place[evidence.argmax(axis=1)]]
