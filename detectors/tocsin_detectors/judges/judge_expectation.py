"""A judge's expected rating."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tocsin_detectors.confidence.distribution import OfDistribution
from tocsin_detectors.detector import fitted

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData


class JudgeExpectation(OfDistribution):
    """R - sum_r r p_r, in [0, R - 1]: how many points a judge's expected rating falls short of the best.

    Reads the probabilities of the ratings 1 to R, worst first, (n, R). Nothing is learnt. Keeps what the likeliest
    rating throws away: two answers rated 4 differ when one is nearly a 5. A fine scale keeps more.

    Source: Wang et al. (2025), TrustJudge, arXiv:2509.21117.
    """

    name: ClassVar[str] = "judge_expectation"
    source: ClassVar[str] = "TrustJudge, Wang et al. 2025, arXiv:2509.21117"

    def __init__(self, signal: str = "rating_probs") -> None:
        super().__init__(signal)
        self._ratings: int | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Check the signal. Raises SignalError when it holds no distributions."""
        super().fit(safe, seed=seed)
        self._ratings = safe.width(self.reads[0])
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, R) -> (n, 1)."""
        import spox.opset.ai.onnx.v18 as op

        missing = np.arange(fitted(self._ratings, self.name))[::-1].astype(np.float32)[:, None]
        return op.matmul(signals[0], op.const(missing.copy()))
