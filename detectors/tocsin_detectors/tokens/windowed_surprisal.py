"""The least likely stretch of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tocsin_detectors.nonfinite import showing
from tocsin_detectors.tokens.present import OfTokens, surprisals

if TYPE_CHECKING:
    from spox import Var


class WindowedSurprisal(OfTokens):
    """max over windows of w tokens of their summed surprisal, divided by w; in nats, >= 0.

    Reads the log-probabilities of the tokens said, (n, T). Nothing is learnt. Finds the doubtful clause that the mean
    over a long answer hides, and is calmer than the single least likely token. An answer shorter than the window
    counts as followed by certain tokens.

    `window` is w, 8 unless told.

    Source: the windowed scores of FIPER, Römer et al. (2025), arXiv:2510.09459, on tokens.
    """

    name: ClassVar[str] = "windowed_surprisal"
    source: ClassVar[str] = "FIPER, Römer et al. 2025, arXiv:2510.09459, on tokens"

    def __init__(self, signal: str = "token_logprobs", *, window: int = 8) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, not {window}")
        super().__init__(signal)
        self.window = window

    def graph(self, *signals: Var) -> Var:
        """(n, T) -> (n, 1). NaN when there is no token."""
        import spox.opset.ai.onnx.v18 as op

        surprisal, there = surprisals(signals[0])
        channel, tokens = op.const(np.array([1])), op.const(np.array([1]))
        ones = op.const(np.full((1, 1, self.window), 1 / self.window, np.float32))
        sums = op.conv(op.unsqueeze(surprisal, channel), ones, pads=[self.window - 1, self.window - 1])
        largest = op.reduce_max(op.squeeze(sums, channel), tokens, keepdims=1)
        some = op.reduce_max(there, tokens, keepdims=1)
        return showing(op.div(largest, some), surprisal)
