"""A score that somebody else computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class External:
    """s, or -s where `lower_is_worse`: the score of a guardrail, classifier or judge that runs elsewhere.

    Reads one number a response, (n, 1), in any unit and of any range. Nothing is learnt: calibration makes a p-value
    of the number, so that its threshold has a false-alarm rate. Finds what the other finds. Scores that take few values
    tie, and a threshold then alarms less often than promised, never more.

    Source: any monotone score serves as a nonconformity measure; Vovk, Gammerman and Shafer (2005), chapter 2.
    """

    name: ClassVar[str] = "external"
    source: ClassVar[str] = "Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World, chapter 2"

    def __init__(self, signal: str = "score", *, lower_is_worse: bool = False) -> None:
        self.reads: tuple[str, ...] = (signal,)
        self.lower_is_worse = lower_is_worse

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it is not one finite number a response."""
        del seed
        if (width := safe.width(self.reads[0])) != 1:
            raise SignalError(f"signal '{self.reads[0]}' holds {width} numbers a response; a score is one")
        safe.require_finite(self.reads[0])
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, 1) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        return op.neg(signals[0]) if self.lower_is_worse else op.identity(signals[0])
