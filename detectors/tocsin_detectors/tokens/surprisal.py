"""Surprisal of the tokens of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tocsin_detectors.tokens.present import OfTokens, mean_over, surprisals

if TYPE_CHECKING:
    from spox import Var

SOURCE = "Fomicheva et al. 2020, arXiv:2005.10608"


class MeanSurprisal(OfTokens):
    """-(1/T) sum_t log p(token_t), in nats, >= 0: how unlikely the model found what it said, a token.

    Reads the log-probabilities of the tokens said, (n, T). Nothing is learnt. The plainest measure of a whole answer;
    one wrong word in a long fluent answer drowns in it.

    Source: Fomicheva et al. (2020), arXiv:2005.10608.
    """

    name: ClassVar[str] = "mean_surprisal"
    source: ClassVar[str] = SOURCE

    def graph(self, *signals: Var) -> Var:
        """(n, T) -> (n, 1)."""
        return mean_over(*surprisals(signals[0]))


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
        # A NaN may lose against a number in a maximum, but not in a sum.
        carried = op.mul(op.reduce_sum(surprisal, tokens, keepdims=1), op.const(np.float32(0)))
        return op.add(op.div(largest, some), carried)


class Perplexity(OfTokens):
    """exp of the mean surprisal, >= 1: among how many equally likely tokens the model chose each time.

    Reads the log-probabilities of the tokens said, (n, T). Nothing is learnt. Orders answers as mean_surprisal does, on
    the scale that people know.

    Source: Jelinek, Mercer, Bahl and Baker (1977), doi:10.1121/1.2016299.
    """

    name: ClassVar[str] = "perplexity"
    source: ClassVar[str] = "Jelinek et al. 1977, doi:10.1121/1.2016299"

    def graph(self, *signals: Var) -> Var:
        """(n, T) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        return op.exp(mean_over(*surprisals(signals[0])))
