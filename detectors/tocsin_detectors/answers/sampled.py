"""What detectors share that read the embeddings of several answers to one question."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.axes import axes_of
from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class OfAnswers:
    """Reads the embeddings of S answers, (n, S, D); flat signals need `samples`, S.

    Fitting raises SignalError when there is one answer only, or the signal is not finite.
    """

    name: ClassVar[str] = ""

    def __init__(self, signal: str = "answer_embeddings", *, samples: int = 0) -> None:
        self.reads = (signal,)
        self.samples = samples
        self._shape: tuple[int, int] | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal, find S."""
        del seed
        samples, width = axes_of(safe, self.reads[0], samples=self.samples, width=0)
        if samples < 2:
            raise SignalError(f"signal '{self.reads[0]}' holds one answer; disagreement needs several")
        safe.require_finite(self.reads[0])
        self._shape = samples, width
        return self

    @property
    def answers(self) -> int:
        """S. Raises SignalError before fitting."""
        return fitted(self._shape, self.name)[0]

    def cosines(self, signal: Var) -> Var:
        """(n, S D) -> the cosine of each pair of answers, (n, S, S). NaN where an embedding has length 0."""
        import spox.opset.ai.onnx.v18 as op

        embeddings = op.reshape(signal, op.const(np.array([0, *fitted(self._shape, self.name)])))
        directions = op.div(embeddings, op.reduce_l2(embeddings, op.const(np.array([2])), keepdims=1))
        return op.matmul(directions, op.transpose(directions, perm=[0, 2, 1]))
