"""Violations of transitivity in a judge's comparisons."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.axes import axes_of
from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError
from tocsin_detectors.nonfinite import showing

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

TIE, BETTER, WORSE = 0, 1, -1


class Transitivity:
    """The share of triples of answers, in [0, 1], that a judge's comparisons put in no order: A > B > C > A, or
    A = B = C but A > C.

    Reads the probability that answer i beats answer j, (n, M, M), M >= 3; only entries above the diagonal are looked
    at. Within `tie` of one half it is a tie. Nothing is learnt. Flat signals need `answers`, M. Tells that comparisons
    contradict each other, not which one is wrong.

    Source: Wang et al. (2025), TrustJudge, arXiv:2509.21117.
    """

    name: ClassVar[str] = "transitivity"
    source: ClassVar[str] = "TrustJudge, Wang et al. 2025, arXiv:2509.21117"

    def __init__(self, signal: str = "preferences", *, tie: float = 0.05, answers: int = 0) -> None:
        if not 0 <= tie < 0.5:
            raise ValueError(f"tie must lie in [0, 0.5), not {tie}")
        self.reads = (signal,)
        self.tie, self.answers = tie, answers
        self._answers: int | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it holds no probabilities of at least three answers."""
        del seed
        rows, columns = axes_of(safe, self.reads[0], answers=self.answers, others=self.answers)
        if rows != columns or rows < 3:
            raise SignalError(f"signal '{self.reads[0]}' must compare three or more answers, not {rows} with {columns}")
        for (batch,) in safe.finite(self.reads[0]):
            if batch.min() < 0 or batch.max() > 1:
                raise SignalError(
                    f"signal '{self.reads[0]}' holds {batch.min():.4g} to {batch.max():.4g}, no probabilities"
                )
        self._answers = rows
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, M M) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        answers = fitted(self._answers, self.name)
        triples = list(combinations(range(answers), 3))
        code: Var | None = None
        for first, second in ((0, 1), (1, 2), (0, 2)):
            places = np.array([t[first] * answers + t[second] for t in triples])
            chance = op.gather(signals[0], op.const(places), axis=1)
            better = op.greater(chance, op.const(np.float32(0.5 + self.tie)))
            worse = op.less(chance, op.const(np.float32(0.5 - self.tie)))
            relation = op.add(op.sub(op.cast(better, to=np.int64), op.cast(worse, to=np.int64)), op.const(np.int64(1)))
            code = relation if code is None else op.add(op.mul(code, op.const(np.int64(3))), relation)
        assert code is not None
        broken = op.gather(op.const(_impossible()), code, axis=0)
        axis = op.const(np.array([1]))
        return showing(op.reduce_mean(broken, axis, keepdims=1), signals[0])


def _impossible() -> np.ndarray:
    """For each way that a triple (A with B, B with C, A with C; worse, tie, better) can come out, 1 where no ranking
    with ties gives it, else 0: (27,), float32."""
    orders = {
        (int(np.sign(a - b)), int(np.sign(b - c)), int(np.sign(a - c))) for a, b, c in product(range(3), repeat=3)
    }
    return np.array([way not in orders for way in product((WORSE, TIE, BETTER), repeat=3)], np.float32)
