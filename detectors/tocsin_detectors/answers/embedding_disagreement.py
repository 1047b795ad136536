"""Disagreement of answers' embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tocsin_detectors.answers.sampled import OfAnswers

if TYPE_CHECKING:
    from spox import Var


class EmbeddingDisagreement(OfAnswers):
    """1 - the mean cosine between different answers, in [0, 1 + 1/(S - 1)]: how far answers point apart.

    Reads the embeddings of S answers to one question, (n, S, D). Nothing is learnt. Works with any sentence embedder;
    answers that differ in one decisive word may still be close. Flat signals need `samples`, S.

    Source: Lin, Trivedi and Sun (2024), arXiv:2305.19187 (degree of the similarity graph).
    """

    name: ClassVar[str] = "embedding_disagreement"
    source: ClassVar[str] = "Lin, Trivedi and Sun 2024, arXiv:2305.19187"

    def graph(self, *signals: Var) -> Var:
        """(n, S D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        samples = self.answers
        total = op.reduce_sum(op.flatten(self.cosines(signals[0]), axis=1), op.const(np.array([1])), keepdims=1)
        pairs = samples * (samples - 1)  # an answer's cosine with itself is 1
        mean = op.mul(op.sub(total, op.const(np.float32(samples))), op.const(np.float32(1 / pairs)))
        return op.sub(op.const(np.float32(1)), mean)
