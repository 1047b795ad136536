"""What detectors share that read one number or several a token: which tokens are there, and means over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from tocsin_detectors.errors import SignalError
from tocsin_detectors.free_length import FreeLength

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

NO_TOKEN = 1.0  # no log-probability is positive, so a positive one says that the stream had ended


class OfTokens:
    """Reads log-probabilities (natural logarithm) a token, (n, T), T free; makes sure at fitting that they are such."""

    free_length = FreeLength(padding=NO_TOKEN)

    def __init__(self, signal: str = "token_logprobs") -> None:
        self.reads = (signal,)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it is not finite or holds probabilities instead."""
        del seed
        require_logprobs(safe, self.reads[0])
        return self


def require_logprobs(safe: FittingData, signal: str, *, masked: bool = False) -> None:
    """Raises SignalError when a signal is not finite (-inf may stand for a probability of 0 where it is `masked`), or
    holds no logarithms of probabilities.
    """
    for (batch,) in safe.finite(signal, masked=masked):
        odd = (batch > 0) & (batch != NO_TOKEN)
        if odd.any():
            raise SignalError(
                f"signal '{signal}' holds {batch[odd][0]:.4g}, but log-probabilities are at most 0 ({NO_TOKEN:g} marks "
                f"places after the end); if these are probabilities, take their logarithm"
            )


def surprisals(logprobs: Var) -> tuple[Var, Var]:
    """(n, T) -> surprisals in nats, 0 where there is no token, and 1 where there is one, 0 elsewhere: (n, T) each."""
    import spox.opset.ai.onnx.v18 as op

    zero = op.const(np.float32(0))
    ended = op.greater(logprobs, zero)
    there = op.cast(op.not_(ended), to=np.float32)
    return op.where(ended, zero, op.neg(logprobs)), there


def mean_over(values: Var, there: Var) -> Var:
    """The mean over the tokens there are: (n, T), (n, T) -> (n, 1). NaN when there is none."""
    import spox.opset.ai.onnx.v18 as op

    tokens = op.const(np.array([1]))
    return op.div(op.reduce_sum(values, tokens, keepdims=1), op.reduce_sum(there, tokens, keepdims=1))
