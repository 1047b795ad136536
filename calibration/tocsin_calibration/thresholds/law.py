"""What a promise looks like in practice: the law of the false-alarm rate and of alarm counts.

With n exchangeable calibration scores without ties and the k-th smallest as threshold, the false-alarm rate is
Beta(n+1-k, k) over calibration sets, and the alarms among m safe responses are Beta-Binomial(m; n+1-k, k)
(Vovk 2012, arXiv:1209.2673). With ties, both are stochastically smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.binomial import beta_quantile
from tocsin_calibration.thresholds.split import rank


@dataclass(frozen=True, slots=True)
class FalseAlarmLaw:
    """The law of false alarms for n calibration scores and the k-th smallest as threshold, 1 <= k <= n."""

    n: int
    k: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise CalibrationError(f"the threshold's rank must lie in 1..{self.n}, not {self.k}")

    @classmethod
    def at(cls, n: int, alpha: float) -> FalseAlarmLaw:
        """The law of the threshold that `split.rank` chooses for alpha."""
        return cls(n, rank(n, alpha))

    @property
    def mean_rate(self) -> float:
        """The expected false-alarm rate, (n+1-k)/(n+1) <= alpha."""
        return (self.n + 1 - self.k) / (self.n + 1)

    def count_pmf(self, m: int) -> NDArray[np.float64]:
        """P(exactly c alarms among m safe responses) for c = 0..m: Beta-Binomial(m; n+1-k, k)."""
        a, b = self.n + 1 - self.k, self.k
        log_beta = lgamma(a) + lgamma(b) - lgamma(a + b)
        logs = np.array(
            [
                lgamma(m + 1) - lgamma(c + 1) - lgamma(m - c + 1)
                + lgamma(a + c) + lgamma(b + m - c) - lgamma(a + b + m) - log_beta
                for c in range(m + 1)
            ]
        )  # fmt: skip
        pmf: NDArray[np.float64] = np.exp(logs)
        pmf /= pmf.sum()
        return pmf

    def count_interval(self, m: int, level: float = 0.99) -> tuple[int, int]:
        """The counts (low, high) between which the alarms among m safe responses fall with probability >= level.

        Equal tails: at most (1-level)/2 lies below low, and as much above high.
        """
        cdf = np.cumsum(self.count_pmf(m))
        tail = (1 - level) / 2
        low = int(np.searchsorted(cdf, tail, side="right"))
        high = int(np.searchsorted(cdf, 1 - tail, side="left"))
        return low, min(high, m)

    def rate_interval(self, level: float = 0.99) -> tuple[float, float]:
        """The rates between which the false-alarm rate of one calibration set falls with probability `level`."""
        tail, a, b = (1 - level) / 2, self.n + 1 - self.k, self.k
        return beta_quantile(tail, a, b), beta_quantile(1 - tail, a, b)

    def at_most(self, m: int, level: float = 0.99) -> int:
        """The c such that of the next m safe responses at most c alarm, with probability at least `level`.

        Batch predictive inference: exact, the calibration set's own luck included.
        """
        return min(m, int(np.searchsorted(np.cumsum(self.count_pmf(m)), level, side="left")))
