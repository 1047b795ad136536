"""Mean entropy of the tokens' distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.axes import axes_of
from tocsin_detectors.detector import fitted
from tocsin_detectors.tokens.present import OfTokens, mean_over, require_logprobs

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class TokenEntropy(OfTokens):
    """(1/T) sum_t H(p_t), in nats, in [0, log(K + 1)]: how undecided the model was, averaged over the tokens.

    Reads the log-probabilities of the K likeliest tokens at each place, (n, T, K); what is left over, 1 minus their
    sum, counts as one more cell. A token that sampling has masked has the log-probability -inf and no part in it
    (0 log 0 = 0). Nothing is learnt. Sees indecision that the tokens said do not show; a low bound of
    the full entropy, the closer the larger K. Flat signals need `alternatives`, K.

    Source: Malinin and Gales (2021), arXiv:2002.07650.
    """

    name: ClassVar[str] = "token_entropy"
    source: ClassVar[str] = "Malinin and Gales 2021, arXiv:2002.07650"
    resolution: ClassVar[float] = 2.0**-30
    reads_masked: ClassVar[bool] = True

    def __init__(self, signal: str = "top_logprobs", *, alternatives: int = 0) -> None:
        super().__init__(signal)
        self.alternatives = alternatives
        self._alternatives: int | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal, find K. Raises SignalError when the signal holds no log-probabilities."""
        del seed
        _, self._alternatives = axes_of(safe, self.reads[0], tokens=0, alternatives=self.alternatives)
        require_logprobs(safe, self.reads[0], masked=True)
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, T K) -> (n, 1). NaN when there is no token."""
        import spox.opset.ai.onnx.v18 as op

        cells = fitted(self._alternatives, self.name)
        logs = op.reshape(signals[0], op.const(np.array([0, -1, cells])))
        zero, last = op.const(np.float32(0)), op.const(np.array([2]))
        ended = op.greater(logs, zero)
        there = op.reduce_max(op.cast(op.not_(ended), to=np.float32), last, keepdims=0)
        probs = op.where(ended, zero, op.exp(logs))
        nothing = op.or_(ended, op.isinf(logs, detect_positive=0))
        entropy = op.neg(op.reduce_sum(op.mul(probs, op.where(nothing, zero, logs)), last, keepdims=0))
        # Rounding may leave the likeliest with a hair more than everything.
        rest = op.max([op.sub(there, op.reduce_sum(probs, last, keepdims=0)), zero])
        tail = op.neg(op.mul(rest, op.log(op.max([rest, op.const(np.float32(1e-30))]))))
        return mean_over(op.add(entropy, tail), there)
