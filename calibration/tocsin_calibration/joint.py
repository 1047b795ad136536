"""One promise for several detectors at once.

Calibration responses are split in two. Against part A each detector's score becomes evidence t_j(x), an increasing
function of the score on a scale all detectors share: -log of the p-value against A. The rule joins the evidence
into one nonconformity score, `any` (alarm when some detector is alarmed) = max_j t_j, `all` (alarm when every one
is) = min_j t_j, and that score is conformalised on part B.

Guarantee: P(alarm | exchangeable with part B) <= alpha for the joint rule itself, whatever the dependence between
detectors, because the joint score is a fixed function once A is drawn. Thresholding each detector at alpha and
joining the alarms keeps no such promise: `any` exceeds alpha, `all` falls far below it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.split import sorted_scores

Float64 = NDArray[np.float64]
Rule = Literal["any", "all"]
RULES: tuple[Rule, ...] = ("any", "all")


class Evidence:
    """One detector's scale: score -> -log p-value against reference scores (n,), continuous and increasing.

    Between reference scores the map is linear; beyond the largest it goes on with the mean excess of the upper
    tenth as its scale, so that far scores keep their order instead of tying at 1/(n+1).
    """

    def __init__(self, reference: Float64) -> None:
        ordered = sorted_scores(reference)
        n = len(ordered)
        knots, first = np.unique(ordered, return_index=True)
        self.p_at_least = np.append((1.0 + n - first) / (n + 1.0), 1.0 / (n + 1.0))
        evidence = -np.log(self.p_at_least[:-1])
        with np.errstate(over="ignore"):
            slopes = np.diff(evidence) / np.diff(knots)
        tail = ordered[int(0.9 * n) :]
        excess = float((tail - tail[0]).mean()) or max(abs(float(knots[-1])), 1.0) * 1e-6
        # Piece i covers knots[i-1] < score <= knots[i]; piece 0 lies below every reference, the last one above.
        self.knots = knots
        self.start = np.concatenate([knots[:1], knots])
        self.value = np.concatenate([evidence[:1], evidence])
        self.slope = np.concatenate([[0.0], slopes, [1.0 / excess]])
        self._lists = tuple(a.tolist() for a in (knots, self.start, self.value, self.slope, self.p_at_least))

    def of(self, score: float) -> tuple[float, float]:
        """Evidence >= 0 and p-value in (0, 1] of one score."""
        knots, start, value, slope, p_at_least = self._lists
        piece = bisect_left(knots, score)
        return value[piece] + slope[piece] * (score - start[piece]), p_at_least[piece]

    def score_at(self, evidence: float) -> float:
        """The largest score whose evidence does not exceed `evidence`: from there on it does."""
        piece = int(np.searchsorted(self.value[1:], evidence, side="right"))
        slope = self.slope[piece]
        return float(self.start[piece] + (evidence - self.value[piece]) / slope) if slope else float(self.start[piece])


class JointScore:
    """Scores of all detectors (n, d) -> one nonconformity score (n,), by `rule`, on scales from part A."""

    def __init__(self, reference: Float64, rule: Rule) -> None:
        self.rule: Rule = rule
        self.scales = [Evidence(column) for column in np.asarray(reference, np.float64).T]
        self._join = max if rule == "any" else min
        # The detectors' pieces one after the other, so that a batch is looked up at once.
        lengths = [len(scale.start) for scale in self.scales]
        self._first = np.concatenate([[0], np.cumsum(lengths)[:-1]])[:, None]
        self._start = np.concatenate([scale.start for scale in self.scales])
        self._value = np.concatenate([scale.value for scale in self.scales])
        self._slope = np.concatenate([scale.slope for scale in self.scales])
        self._p_at_least = np.concatenate([scale.p_at_least for scale in self.scales])

    def __call__(self, scores: NDArray[np.floating]) -> tuple[Float64, Float64]:
        """Joint scores (m,) and each detector's p-values (m, d)."""
        columns = scores.T.astype(np.float64)
        pieces = np.empty(columns.shape, np.intp)
        for row, (scale, column) in enumerate(zip(self.scales, columns, strict=True)):
            pieces[row] = scale.knots.searchsorted(column)
        pieces += self._first
        evidence = self._value.take(pieces) + self._slope.take(pieces) * (columns - self._start.take(pieces))
        joint = evidence.max(axis=0) if self.rule == "any" else evidence.min(axis=0)
        return joint, self._p_at_least.take(pieces).T

    def of(self, scores: list[float]) -> tuple[float, list[float]]:
        """The same for one response, to the bit."""
        pairs = [scale.of(score) for scale, score in zip(self.scales, scores, strict=True)]
        return self._join([e for e, _ in pairs]), [p for _, p in pairs]
