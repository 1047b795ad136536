"""Width of a predicted interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.errors import SignalError
from tocsin_detectors.nonfinite import showing

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class IntervalWidth:
    """q_high - q_low, in the target's unit: how wide the model's own outermost interval is.

    Reads predicted quantiles, lowest level first, (n, Q), Q >= 2. Nothing is learnt. As good as the model's sense of
    its own error; crossed quantiles give a negative width.

    Source: Koenker and Bassett (1978), doi:10.2307/1913643; as an uncertainty, Romano, Patterson and Candes (2019),
    arXiv:1905.03222.
    """

    name: ClassVar[str] = "interval_width"
    source: ClassVar[str] = "Romano, Patterson and Candes 2019, arXiv:1905.03222"

    def __init__(self, signal: str = "quantiles") -> None:
        self.reads = (signal,)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it holds one quantile, or the last lies below the first."""
        del seed
        if safe.width(self.reads[0]) < 2:
            raise SignalError(f"signal '{self.reads[0]}' holds one quantile; a width needs two")
        crossed = sum(int((batch[:, -1] < batch[:, 0]).sum()) for (batch,) in safe.finite(self.reads[0]))
        if crossed > safe.rows / 2:
            raise SignalError(f"signal '{self.reads[0]}' has its last quantile below the first; give the lowest first")
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, Q) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        zero, last = op.const(np.array([0])), op.const(np.array([-1]))
        width = op.sub(op.gather(signals[0], last, axis=1), op.gather(signals[0], zero, axis=1))
        return showing(width, signals[0])
