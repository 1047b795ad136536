"""Disagreement of answers' words."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.axes import axes_of
from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError
from tocsin_detectors.free_length import FreeLength
from tocsin_detectors.nonfinite import showing

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class LexicalDisagreement:
    """1 - the mean Jaccard index of pairs of answers' token sets, in [0, 1]: how few words answers share.

    Reads the token ids of S answers to one question, (n, S, T), T free, -1 after the end of an answer. Nothing is
    learnt. Needs no embedder; takes synonyms for disagreement and reordered words for agreement. Flat signals need
    `samples`, S. Costs (S T)^2 comparisons.

    Source: Lin, Trivedi and Sun (2024), arXiv:2305.19187.
    """

    name: ClassVar[str] = "lexical_disagreement"
    source: ClassVar[str] = "Lin, Trivedi and Sun 2024, arXiv:2305.19187"
    free_length = FreeLength(padding=-1, axis=1)

    def __init__(self, signal: str = "answer_tokens", *, samples: int = 0) -> None:
        self.reads = (signal,)
        self.samples = samples
        self._answers: int | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal, find S. Raises SignalError when there is one answer only, or it is not finite."""
        del seed
        self._answers, _ = axes_of(safe, self.reads[0], samples=self.samples, tokens=0)
        if self._answers < 2:
            raise SignalError(f"signal '{self.reads[0]}' holds one answer; disagreement needs several")
        safe.require_finite(self.reads[0])
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, S T) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        samples = fitted(self._answers, self.name)
        axis_1, axis_2, axis_3, axis_4 = (op.const(np.array([axis])) for axis in (1, 2, 3, 4))
        tokens = op.reshape(signals[0], op.const(np.array([0, samples, -1])))
        there = op.cast(op.greater_or_equal(tokens, op.const(np.float32(0))), to=np.float32)  # (n, S, T)
        # Keep each token of an answer once: the first of its kind.
        kin = op.cast(op.equal(op.unsqueeze(tokens, axis_3), op.unsqueeze(tokens, axis_2)), to=np.float32)
        before = op.reduce_max(op.trilu(kin, op.const(np.array(-1)), upper=0), axis_3, keepdims=0)
        first = op.mul(there, op.sub(op.const(np.float32(1)), before))
        sizes = op.reduce_sum(first, axis_2, keepdims=1)  # (n, S, 1)
        mine, others = (
            op.unsqueeze(op.unsqueeze(tokens, axis_2), axis_4),
            op.unsqueeze(op.unsqueeze(tokens, axis_1), axis_3),
        )
        match = op.cast(op.equal(mine, others), to=np.float32)  # (n, S, S, T, T)
        matched = op.mul(op.reduce_max(match, axis_4, keepdims=0), op.unsqueeze(first, axis_2))
        common = op.reduce_sum(matched, axis_3, keepdims=0)  # (n, S, S)
        union = op.sub(op.add(sizes, op.transpose(sizes, perm=[0, 2, 1])), common)
        # Two empty answers agree.
        empty = op.equal(union, op.const(np.float32(0)))
        alike = op.where(empty, op.const(np.float32(1)), op.div(common, op.max([union, op.const(np.float32(1))])))
        total = op.reduce_sum(op.flatten(alike, axis=1), axis_1, keepdims=1)
        pairs = np.float32(1 / (samples * (samples - 1)))
        mean = op.mul(op.sub(total, op.const(np.float32(samples))), op.const(pairs))
        return showing(op.sub(op.const(np.float32(1)), mean), signals[0])
