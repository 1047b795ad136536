"""Distance to the k-th nearest neighbour."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class NearestNeighbours:
    """|| u(x) - u(x_(k)) ||_2 with u(x) = x / ||x||, in [0, 2]: how far the k-th nearest safe embedding points away.

    Reads an embedding or features, (n, D). Keeps up to `bank` safe embeddings, drawn by the seed where there are more.
    Makes no assumption on their shape, so it also works for many clusters; costs time and memory in proportion to the
    bank, and looks at direction alone: centre embeddings whose length matters, or use Mahalanobis.

    `k` >= 1, 10 unless told otherwise; fitting needs more than k rows.

    Source: Sun, Ming, Zhu and Li (2022), arXiv:2204.06507.
    """

    name: ClassVar[str] = "knn"
    source: ClassVar[str] = "Sun et al. 2022, arXiv:2204.06507"

    def __init__(self, signal: str = "embedding", *, k: int = 10, bank: int = 2_000) -> None:
        if k < 1 or bank <= k:
            raise ValueError(f"k must be at least 1 and the bank larger than k, not {k} and {bank}")
        self.reads = (signal,)
        self.k, self.bank = k, bank
        self._bank: NDArray[np.float32] | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Keep safe embeddings. Raises SignalError when there are not more than k, or one has length 0."""
        if safe.rows <= self.k:
            raise SignalError(f"knn needs more than {self.k} rows of '{self.reads[0]}', not {safe.rows}")
        bank = safe.sample(self.bank, seed=seed)
        bank.require_finite(self.reads[0])
        rows = bank[self.reads[0]]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not lengths.all():
            row = int(np.argmin(lengths))
            raise SignalError(f"signal '{self.reads[0]}' has length 0 in row {row}, so it points nowhere; leave it out")
        self._bank = rows / lengths
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1). An embedding of length 0 scores NaN, which serving reports as unscored."""
        import spox.opset.ai.onnx.v18 as op

        direction = op.div(signals[0], op.reduce_l2(signals[0], op.const(np.array([1])), keepdims=1))
        cosines = op.matmul(direction, op.const(np.ascontiguousarray(fitted(self._bank, self.name).T)))
        nearest, _ = op.top_k(cosines, op.const(np.array([self.k])))
        kth = op.slice(nearest, op.const(np.array([self.k - 1])), op.const(np.array([self.k])), op.const(np.array([1])))
        squared = op.sub(op.const(np.float32(2)), op.mul(op.const(np.float32(2)), kth))
        # Rounding may put a cosine a hair above 1, of which no distance exists.
        return op.sqrt(op.max([squared, op.const(np.float32(0))]))
