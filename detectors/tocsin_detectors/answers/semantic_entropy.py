"""Semantic entropy."""

from __future__ import annotations

from math import ceil, log2
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tocsin_detectors.answers.sampled import OfAnswers
from tocsin_detectors.nonfinite import showing

if TYPE_CHECKING:
    from spox import Var


class SemanticEntropy(OfAnswers):
    """-sum_c (|c| / S) log (|c| / S) over clusters c of S answers, in nats, in [0, log S]: how many things they mean.

    Reads the embeddings of S answers to one question, (n, S, D). Two answers mean the same when the cosine of their
    embeddings is at least `similarity`, or others in between do. Nothing is learnt. Looks through wording at meaning as
    far as the embedder does; choose `similarity` for it, 0.8 unless told. Flat signals need `samples`, S.

    Source: Farquhar, Kossen, Kuhn and Gal (2024), doi:10.1038/s41586-024-07421-0 (discrete form), with clusters of
    embeddings in the place of an entailment model.
    """

    name: ClassVar[str] = "semantic_entropy"
    source: ClassVar[str] = "Farquhar et al. 2024, doi:10.1038/s41586-024-07421-0"
    resolution: ClassVar[float] = 2.0**-30

    def __init__(self, signal: str = "answer_embeddings", *, similarity: float = 0.8, samples: int = 0) -> None:
        if not -1 < similarity <= 1:
            raise ValueError(f"similarity must lie in (-1, 1], not {similarity}")
        super().__init__(signal, samples=samples)
        self.similarity = similarity

    def graph(self, *signals: Var) -> Var:
        """(n, S D) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        cosines = self.cosines(signals[0])
        # The hair is what float32 takes off the cosine of two equal embeddings.
        same = op.greater_or_equal(cosines, op.const(np.float32(self.similarity - 1e-5)))
        linked = op.cast(same, to=np.float32)
        for _ in range(ceil(log2(self.answers))):  # who is linked through others, twice as many steps each time
            linked = op.min([op.matmul(linked, linked), op.const(np.float32(1))])
        sizes = op.reduce_sum(linked, op.const(np.array([2])), keepdims=0)  # (n, S): of each answer's cluster
        shares = op.log(op.mul(sizes, op.const(np.float32(1 / self.answers))))
        entropy = op.neg(op.reduce_mean(shares, op.const(np.array([1])), keepdims=1))
        return showing(entropy, signals[0])
