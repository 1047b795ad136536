"""Virtual-logit matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError
from tocsin_detectors.subspace import residual_basis

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import Observations


class VirtualLogit:
    """ViM: alpha || (I - V V^T)(x - m) ||_2 - log sum_c exp z_c, in the logits' unit: residual against evidence.

    Reads an embedding, (n, D), and logits, (n, C). Learns the safe embeddings' principal subspace V (95% of the
    variance, or `dimensions`) and alpha, the ratio of the mean largest logit to the mean residual. Works where either
    source alone misses something: what leaves the subspace, and what has little evidence.

    The subspace is centred on the mean of the embeddings; the paper centres it where the last layer's logits vanish,
    which needs that layer's weights.

    Source: Wang, Li, Feng and Zhang (2022), arXiv:2203.10807.
    """

    name: ClassVar[str] = "vim"
    source: ClassVar[str] = "Wang et al. 2022, arXiv:2203.10807"

    def __init__(self, signal: str = "embedding", logits: str = "logits", *, dimensions: int | None = None) -> None:
        self.reads = (signal, logits)
        self.dimensions = dimensions
        self._mean: NDArray[np.float64] | None = None
        self._outside: NDArray[np.float64] | None = None

    def fit(self, safe: Observations, *, seed: int = 0) -> Self:
        """Find the subspace and alpha. Raises SignalError as PCAResidual does, or when the logits are not finite."""
        del seed
        embedding = safe.require_finite(self.reads[0]).astype(np.float64)
        logits = safe.require_finite(self.reads[1]).astype(np.float64)
        self._mean = embedding.mean(axis=0)
        outside = residual_basis(embedding - self._mean, self.dimensions, self.reads[0])
        residual = np.linalg.norm((embedding - self._mean) @ outside, axis=1).mean()
        if residual <= 1e-9 * np.abs(embedding).max():
            raise SignalError(f"signal '{self.reads[0]}' never leaves its principal subspace; choose fewer dimensions")
        # alpha scales the norm, so it may as well scale the basis.
        self._outside = outside * (abs(logits.max(axis=1).mean()) / residual)
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D), (n, C) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        if self._mean is None or self._outside is None:
            raise SignalError("vim has not been fitted")
        axis = op.const(np.array([1]))
        outside = op.const(self._outside.astype(np.float32))
        offset = op.const((-self._mean @ self._outside).astype(np.float32))
        virtual = op.reduce_l2(op.gemm(signals[0], outside, offset), axis, keepdims=1)
        return op.sub(virtual, op.reduce_log_sum_exp(signals[1], axis, keepdims=1))
