"""What detectors share that read several sampled action chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.axes import axes_of
from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class Chunks(NamedTuple):
    """S sampled chunks of H steps with A dimensions."""

    samples: int
    steps: int
    dimensions: int

    @classmethod
    def of(cls, safe: FittingData, signal: str, samples: int, steps: int) -> Chunks:
        """From the signal's shape (S, H, A), or the settings. Raises SignalError when there is one sample only."""
        chunks = cls(*axes_of(safe, signal, samples=samples, steps=steps, dimensions=0))
        if chunks.samples < 2:
            raise SignalError(f"signal '{signal}' holds one sampled action; their spread needs several")
        return chunks

    def apart(self, signal: Var) -> Var:
        """(n, S H A) -> (n, S, H, A)."""
        import spox.opset.ai.onnx.v18 as op

        return op.reshape(signal, op.const(np.array([0, *self])))

    def ranges(self, safe: FittingData, signal: str) -> NDArray[np.float64]:
        """Largest minus smallest value of each dimension, (A,). One that never moves gets the largest range.

        Raises SignalError when none moves.
        """
        low, high = np.full(self.dimensions, np.inf), np.full(self.dimensions, -np.inf)
        for (batch,) in safe.finite(signal):
            flat = batch.reshape(-1, self.dimensions)
            low, high = np.minimum(low, flat.min(axis=0)), np.maximum(high, flat.max(axis=0))
        spread: NDArray[np.float64] = high - low
        if not spread.any():
            raise SignalError(f"signal '{signal}' is the same in every dimension of every response")
        return np.where(spread > 0, spread, spread.max())
