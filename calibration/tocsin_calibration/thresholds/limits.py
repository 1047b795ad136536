"""One set of calibration scores and what it limits: the threshold of each severity, p-values, and their law."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.thresholds.clustered import Clustered
from tocsin_calibration.thresholds.contaminated import bad_among
from tocsin_calibration.thresholds.law import FalseAlarmLaw
from tocsin_calibration.thresholds.ordered import Ordered
from tocsin_calibration.thresholds.terms import Guarantee
from tocsin_calibration.thresholds.weighted import Weighted, effective_size

Float64 = NDArray[np.float64]


class Limits:
    """Thresholds and p-values from nonconformity scores (n,), or `Ordered` ones, for alphas by severity, gravest first.

    `laws`: the law of false alarms; a bound of it where scores tie at the threshold or calibration is contaminated, an
    approximate one where `weights` (n,) make the promise one for the traffic that they describe (see `weighted`).
    `clusters` (n,): the session that each score comes from, where sessions have several (see `clustered`); then the law
    is approximate, too. Raises CalibrationError when the scores cannot carry an alpha.
    """

    def __init__(
        self,
        scores: ArrayLike | Ordered,
        alphas: Mapping[str, float],
        terms: Guarantee = Guarantee(),
        weights: ArrayLike | None = None,
        clusters: ArrayLike | None = None,
        *,
        normalised: bool = False,
    ) -> None:
        self.weighted: Weighted | None = None
        self.clustered: Clustered | None = None
        self._contaminated = bool(terms.contaminated)
        if clusters is not None and not isinstance(scores, Ordered):
            values = np.asarray(scores, np.float64)
            order = np.argsort(values, kind="stable")
            self.ordered = Ordered.of(values[order])
            self.clustered = Clustered.of(values[order], np.asarray(clusters)[order])
            if terms.confidence is None and all(self.clustered.carries(alpha) for alpha in alphas.values()):
                self.weighted = Weighted(self.ordered.scores, self.clustered.weights, 1.0)
        elif isinstance(scores, Ordered):
            self.ordered = scores
        elif weights is None:
            self.ordered = Ordered.of(scores)
        else:
            self.weighted = Weighted.of(scores, weights, normalised=normalised)
            self.ordered = Ordered(self.weighted.scores, len(self.weighted.scores))
        self.scores, self.n = self.ordered.scores, self.ordered.n
        self.effective = float(self.n)
        if self.clustered is not None:
            self.effective = float(self.clustered.effective)
        elif self.weighted is not None:
            self.effective = effective_size(self.weighted.weights)
        self.laws: dict[str, FalseAlarmLaw] = {}
        self.thresholds: dict[str, float] = {}
        self.above: dict[str, int] = {}  # calibration scores over each threshold that are of safe responses for sure
        self.exact: dict[str, bool] = {}  # whether the law is that of alarms, and not only a bound of it
        self.sure: dict[str, float | None] = {}  # with which confidence each is promised, None: on average
        ranks = self._ranks(alphas, terms)
        for name, alpha in alphas.items():
            k = ranks[name]
            self.sure[name] = terms.sure(self.n, alpha)
            self.thresholds[name] = self.ordered.at_rank(k)
            self.above[name] = 0
            approximate = self.weighted is not None or self.clustered is not None or self._contaminated
            self.exact[name] = not approximate and not self.ordered.ties(k)
            if self.clustered is not None:
                self.laws[name] = _law_of(self.clustered.effective, alpha, terms)
            elif self.weighted is None:
                bad = bad_among(self.n, terms.contaminated)  # at worst all of them lie below the threshold
                self.laws[name] = FalseAlarmLaw(self.n - bad, k - bad)
                self.above[name] = max(0, self.n - int(self.ordered.at_most(self.thresholds[name])) - bad)
            else:
                assert self.weighted is not None
                self.laws[name] = FalseAlarmLaw.at(self.weighted.effective(alpha, k), alpha)
        self._levels = list(self.thresholds.items())
        self.min_threshold = min(self.thresholds.values())  # nothing up to here alarms
        # The p-value of one nonconformity score, to the bit as `pvalues` gives it.
        self.pvalue: Callable[[float], float]
        if self.weighted is None:
            self.pvalue = self.ordered.pvalue_of_one()
        else:
            ordered, by_rank = self.scores.tolist(), self.weighted.pvalues(np.append(self.scores, np.inf)).tolist()
            self.pvalue = lambda score: by_rank[bisect_left(ordered, score)]

    def rate_range(self, severity: str, level: float = 0.99) -> tuple[float, float]:
        """Between which rates safe traffic alarms with probability `level`, ties at the threshold included.

        Where calibration is contaminated the lower end is 0, and the upper one that of the worst case.
        """
        low, high = self._bounds(severity)
        return 0.0 if low is None else low.rate_interval(level)[0], high.rate_interval(level)[1]

    def count_range(self, severity: str, m: int, level: float = 0.99) -> tuple[int, int]:
        """Between which counts the alarms among m safe responses lie with probability `level`, likewise."""
        low, high = self._bounds(severity)
        return 0 if low is None else low.count_interval(m, level)[0], high.count_interval(m, level)[1]

    def likely_law(self, severity: str) -> FalseAlarmLaw:
        """The law of false alarms by the scores over the threshold, which ties make fewer than the promise allows."""
        return self._bounds(severity)[1]

    def _bounds(self, severity: str) -> tuple[FalseAlarmLaw | None, FalseAlarmLaw]:
        """Laws below and above that of alarms. With j scores at or below the threshold, the rate lies between those of
        the ranks j + 1 and j with ties broken at random: the interval of Clopper and Pearson for j of n.
        """
        law = self.laws[severity]
        if self.exact[severity] or self.weighted is not None or self.clustered is not None:
            return law, law
        if self._contaminated:
            return None, law
        above = self.above[severity]
        return FalseAlarmLaw(law.n, law.n + 1 - above) if above else None, FalseAlarmLaw(law.n, law.n - above)

    def _ranks(self, alphas: Mapping[str, float], terms: Guarantee) -> dict[str, int]:
        """The rank of each threshold. That of a graver alarm never lies below a milder one's, as it would where the
        milder alone is promised with confidence.
        """
        ranks: dict[str, int] = {}
        least = 1
        for name in sorted(alphas, key=lambda name: -alphas[name]):
            least = ranks[name] = max(least, self._rank(alphas[name], terms))
        return ranks

    def _rank(self, alpha: float, terms: Guarantee) -> int:
        if self.weighted is None:
            return terms.rank(self.n, alpha)
        if self.clustered is None:
            return self.weighted.rank(alpha)
        return self.weighted.reach(alpha) or self.n

    def pvalues(self, joint: Float64) -> Float64:
        """P-values (m,) in (0, 1] of nonconformity scores (m,)."""
        return self.ordered.pvalues(joint) if self.weighted is None else self.weighted.pvalues(joint)

    def severity(self, joint: float) -> str | None:
        """The gravest severity whose threshold the score exceeds, or None."""
        if joint <= self.min_threshold:
            return None
        for name, limit in self._levels:
            if joint > limit:
                return name
        return None


def _law_of(n: int, alpha: float, terms: Guarantee) -> FalseAlarmLaw:
    """The law for as many independent scores, who may be too few for alpha."""
    return FalseAlarmLaw(n, terms.rank(n, alpha) if n >= terms.required_size(alpha) else n)
