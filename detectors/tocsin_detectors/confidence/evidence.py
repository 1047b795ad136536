"""Telling logits from probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from tocsin_detectors.observation import FittingData


def require_logits(safe: FittingData, signal: str, instead: str) -> None:
    """Look through a signal of logits, (n, C). Raises SignalError when it is not finite, or holds probabilities."""
    probable = True
    for (logits,) in safe.finite(signal):
        probable = probable and bool((logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3))
    if probable:
        raise SignalError(
            f"signal '{signal}' holds probabilities, which have lost the logits' size; give the logits, or use "
            f"{instead}"
        )
