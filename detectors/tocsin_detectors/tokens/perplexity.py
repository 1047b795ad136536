"""Perplexity."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tocsin_detectors.tokens.present import OfTokens, mean_over, surprisals

if TYPE_CHECKING:
    from spox import Var


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
