"""Mean surprisal of the tokens of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tocsin_detectors.tokens.present import OfTokens, mean_over, surprisals

if TYPE_CHECKING:
    from spox import Var


class MeanSurprisal(OfTokens):
    """-(1/T) sum_t log p(token_t), in nats, >= 0: how unlikely the model found what it said, a token.

    Reads the log-probabilities of the tokens said, (n, T). Nothing is learnt. The plainest measure of a whole answer;
    one wrong word in a long fluent answer drowns in it.

    Source: Fomicheva et al. (2020), arXiv:2005.10608.
    """

    name: ClassVar[str] = "mean_surprisal"
    source: ClassVar[str] = "Fomicheva et al. 2020, arXiv:2005.10608"

    def graph(self, *signals: Var) -> Var:
        """(n, T) -> (n, 1)."""
        return mean_over(*surprisals(signals[0]))
