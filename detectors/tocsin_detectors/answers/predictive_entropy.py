"""Predictive entropy over sampled answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class PredictiveEntropy:
    """-(1/S) sum_s log p(answer_s), in nats: the entropy of the answer distribution, by its own samples.

    Reads the log-probabilities of S sampled answers, (n, S), each the sum over its tokens, or their mean where lengths
    differ much. Nothing is learnt. High when no answer is likely; counts wordings of one meaning as different answers.

    Source: Malinin and Gales (2021), arXiv:2002.07650.
    """

    name: ClassVar[str] = "predictive_entropy"
    source: ClassVar[str] = "Malinin and Gales 2021, arXiv:2002.07650"

    def __init__(self, signal: str = "answer_logprobs") -> None:
        self.reads = (signal,)

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it is not finite, or above 0."""
        del seed
        for (batch,) in safe.finite(self.reads[0]):
            if batch.max() > 0:
                raise SignalError(
                    f"signal '{self.reads[0]}' holds {batch.max():.4g}, but log-probabilities are at most 0"
                )
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, S) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        return op.neg(op.reduce_mean(signals[0], op.const(np.array([1])), keepdims=1))
