"""What detectors share that score class probabilities and learn nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tocsin_detectors.fitting import FittingData


class OfDistribution:
    """Reads one signal of class probabilities, (n, C), and makes sure at fitting that it holds distributions."""

    def __init__(self, signal: str = "probs") -> None:
        self.reads = (signal,)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it holds no distributions."""
        del seed
        safe.require_distribution(self.reads[0])
        return self
