"""What a promise looks like in practice: the law of the false-alarm rate and of alarm counts.

With n exchangeable calibration scores without ties and the k-th smallest as threshold, the false-alarm rate is
Beta(n+1-k, k) over calibration sets, and the alarms among m safe responses are Beta-Binomial(m; n+1-k, k)
(Vovk 2012, arXiv:1209.2673). With ties, both are stochastically smaller. Of more than ONE_BY_ONE responses the counts
are exact to within a thousandth of their standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import lgamma, sqrt

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.binomial import beta_quantile
from tocsin_calibration.thresholds.split import rank

ONE_BY_ONE = 200_000  # responses of which every count of alarms is weighed
_quantile = lru_cache(4096)(beta_quantile)  # pages ask for the same ones every second
FAR = 45.0  # standard deviations from the mean, beyond which nothing is left


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

    def variance_of_rate(self, m: int) -> float:
        """The variance of the share of m safe responses that alarm, the luck of the calibration set included."""
        p = self.mean_rate
        return p * (1 - p) / m * (self.n + 1 + m) / (self.n + 2)

    def count_pmf(self, m: int) -> NDArray[np.float64]:
        """P(exactly c alarms among m safe responses) for c = 0..m: Beta-Binomial(m; n+1-k, k)."""
        return self._shares(m, range(m + 1))

    def count_interval(self, m: int, level: float = 0.99) -> tuple[int, int]:
        """The counts (low, high) between which the alarms among m safe responses fall with probability >= level.

        Equal tails: at most (1-level)/2 lies below low, and as much above high.
        """
        counts, shares = self._counts(m)
        cdf = np.cumsum(shares)
        tail = (1 - level) / 2
        low, high = np.searchsorted(cdf, tail, side="right"), np.searchsorted(cdf, 1 - tail, side="left")
        return counts[min(int(low), len(counts) - 1)], counts[min(int(high), len(counts) - 1)]

    def at_least(self, m: int, alarms: int) -> float:
        """P(at least so many alarms among m safe responses)."""
        counts, shares = self._counts(m)
        return min(
            1.0, float(shares[-(-(alarms - counts.start) // counts.step) if alarms > counts.start else 0 :].sum())
        )

    def rate_interval(self, level: float = 0.99) -> tuple[float, float]:
        """The rates between which the false-alarm rate of one calibration set falls with probability `level`."""
        tail, a, b = (1 - level) / 2, self.n + 1 - self.k, self.k
        return _quantile(tail, a, b), _quantile(1 - tail, a, b)

    def at_most(self, m: int, level: float = 0.99) -> int:
        """The c such that of the next m safe responses at most c alarm, with probability at least `level`.

        Batch predictive inference: exact, the calibration set's own luck included.
        """
        counts, shares = self._counts(m)
        return counts[min(int(np.searchsorted(np.cumsum(shares), level, side="left")), len(counts) - 1)]

    def _counts(self, m: int) -> tuple[range, NDArray[np.float64]]:
        """Counts and their probabilities; of very many responses, counts at equal steps, each for those next to it."""
        if m <= ONE_BY_ONE:
            return range(m + 1), self.count_pmf(m)
        a, b = self.n + 1 - self.k, self.k
        mean = m * self.mean_rate
        deviation = sqrt(mean * (b / (a + b)) * (a + b + m) / (a + b + 1))
        low, high = max(0, int(mean - FAR * deviation)), min(m, int(mean + FAR * deviation) + 1)
        counts = range(low, high + 1, max(1, (high - low) // ONE_BY_ONE))
        return counts, self._shares(m, counts)

    def _shares(self, m: int, counts: range) -> NDArray[np.float64]:
        """The Beta-Binomial probabilities of these counts among m, scaled to sum to 1."""
        a, b = self.n + 1 - self.k, self.k
        log_beta = lgamma(a) + lgamma(b) - lgamma(a + b)
        logs = np.array(
            [
                lgamma(m + 1) - lgamma(c + 1) - lgamma(m - c + 1)
                + lgamma(a + c) + lgamma(b + m - c) - lgamma(a + b + m) - log_beta
                for c in counts
            ]
        )  # fmt: skip
        shares: NDArray[np.float64] = np.exp(logs - logs.max())
        shares /= shares.sum()
        return shares
