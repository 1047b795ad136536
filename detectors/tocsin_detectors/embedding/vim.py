"""Virtual-logit matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.detector import fitted
from tocsin_detectors.embedding.subspace import Residual
from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class VirtualLogit:
    """ViM: alpha || (I - V V^T)(x - m) ||_2 - log sum_c exp z_c, in the logits' unit: residual against evidence.

    Reads an embedding, (n, D), and logits, (n, C). Learns the safe embeddings' principal subspace V (95% of the
    variance, or `dimensions`) and alpha, the ratio of the mean largest logit to the mean residual. Works where either
    source alone misses something: what leaves the subspace, and what has little evidence. The embedding's dimensions
    must share a unit.

    The subspace is centred on the mean of the embeddings; the paper centres it where the last layer's logits vanish,
    which needs that layer's weights.

    Source: Wang, Li, Feng and Zhang (2022), arXiv:2203.10807.
    """

    name: ClassVar[str] = "vim"
    source: ClassVar[str] = "Wang et al. 2022, arXiv:2203.10807"

    def __init__(self, signal: str = "embedding", logits: str = "logits", *, dimensions: int | None = None) -> None:
        self.reads = (signal, logits)
        self.dimensions = dimensions
        self._virtual: Residual | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Find the subspace and alpha. Raises SignalError as PCAResidual does, or when the logits are not finite."""
        del seed
        residual = Residual(safe, self.reads[0], self.dimensions)
        outside = evidence = size = 0.0
        for embedding, logits in safe.finite(*self.reads):
            outside += residual.norms(embedding).sum()
            evidence += logits.max(axis=1).sum()
            size = max(size, np.abs(embedding).max())
        if outside <= 1e-9 * size * safe.rows:
            raise SignalError(f"signal '{self.reads[0]}' never leaves its principal subspace; choose fewer dimensions")
        residual.scale(abs(evidence) / outside)
        self._virtual = residual
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D), (n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        free = op.reduce_log_sum_exp(signals[1], op.const(np.array([1])), keepdims=1)
        return op.sub(fitted(self._virtual, self.name).graph(signals[0]), free)
