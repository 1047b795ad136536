"""Repetition."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.free_length import FreeLength
from tocsin_detectors.nonfinite import showing

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class Repetition:
    """The share of an answer's n-grams that occurred in it before, in [0, 1]: how much a model has fallen into a loop.

    Reads the ids of the tokens said, (n, T), T free, -1 after the end. Nothing is learnt. Finds degenerate decoding at
    once; tables and code repeat themselves rightly. `grams` is n, 4 unless told. Costs T^2 comparisons.

    Source: Welleck et al. (2020), seq-rep-n, arXiv:1908.04319.
    """

    name: ClassVar[str] = "repetition"
    source: ClassVar[str] = "Welleck et al. 2020, arXiv:1908.04319"
    free_length = FreeLength(padding=-1)

    def __init__(self, signal: str = "tokens", *, grams: int = 4) -> None:
        if grams < 1:
            raise ValueError(f"grams must be at least 1, not {grams}")
        self.reads = (signal,)
        self.grams = grams

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it is not finite."""
        del seed
        safe.require_finite(self.reads[0])
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, T) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        # A diagonal walk: token s = token t, s+1 = t+1, ... The sequences are lengthened so that none runs out.
        longer = op.pad(signals[0], op.const(np.array([0, 0, 0, self.grams - 1])), op.const(np.float32(-1)))
        length = op.slice(op.shape(signals[0]), op.const(np.array([1])), op.const(np.array([2])))
        same: Var | None = None
        all_equal: Var | None = None
        axis_1, axis_2 = op.const(np.array([1])), op.const(np.array([2]))
        for shift in range(self.grams):
            start = op.const(np.array([shift]))
            tokens = op.slice(longer, start, op.add(start, length), axis_1)
            equal = op.equal(op.unsqueeze(tokens, axis_2), op.unsqueeze(tokens, axis_1))
            there = op.greater_or_equal(tokens, op.const(np.float32(0)))
            same = equal if same is None else op.and_(same, equal)
            all_equal = there if all_equal is None else op.and_(all_equal, there)
        assert same is not None and all_equal is not None
        earlier = op.trilu(op.cast(same, to=np.float32), op.const(np.array(-1)), upper=0)
        has_repeat = op.reduce_max(earlier, axis_2, keepdims=0)
        counted = op.cast(all_equal, to=np.float32)
        repeated = op.reduce_sum(op.mul(has_repeat, counted), axis_1, keepdims=1)
        places = op.max([op.reduce_sum(counted, axis_1, keepdims=1), op.const(np.float32(1))])
        return showing(op.div(repeated, places), signals[0])
