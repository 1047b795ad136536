"""The least likely token of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tocsin_detectors.nonfinite import showing
from tocsin_detectors.tokens.present import OfTokens, surprisals

if TYPE_CHECKING:
    from spox import Var


class MaxSurprisal(OfTokens):
    """max_t -log p(token_t), in nats, >= 0: the least likely token of the answer.

    Reads the log-probabilities of the tokens said, (n, T). Nothing is learnt. Finds the one doubtful name or number;
    grows with the length of the answer, and with synonyms that are all fine.

    Source: Manakul, Liusie and Gales (2023), arXiv:2303.08896.
    """

    name: ClassVar[str] = "max_surprisal"
    source: ClassVar[str] = "Manakul, Liusie and Gales 2023, arXiv:2303.08896"

    def graph(self, *signals: Var) -> Var:
        """(n, T) -> (n, 1). NaN when there is no token."""
        import spox.opset.ai.onnx.v18 as op

        surprisal, there = surprisals(signals[0])
        tokens = op.const(np.array([1]))
        some = op.reduce_max(there, tokens, keepdims=1)
        largest = op.reduce_max(surprisal, tokens, keepdims=1)
        return showing(op.div(largest, some), surprisal)
