"""What detectors share that score class probabilities and learn nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from tocsin_detectors.observation import FittingData


class OfDistribution:
    """Reads one signal of class probabilities, (n, C), and makes sure at fitting that it holds distributions."""

    def __init__(self, signal: str = "probs") -> None:
        self.reads = (signal,)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it holds no distributions."""
        del seed
        safe.require_distribution(self.reads[0])
        return self


def require_same_classes(safe: FittingData, signals: tuple[str, str]) -> int:
    """The number of classes of two signals. Raises SignalError when either holds no distributions, or they differ."""
    for signal in signals:
        safe.require_distribution(signal)
    first, second = (safe.width(signal) for signal in signals)
    if first != second:
        raise SignalError(f"signals '{signals[0]}' and '{signals[1]}' have {first} and {second} classes")
    return first
