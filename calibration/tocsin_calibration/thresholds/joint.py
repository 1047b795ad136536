"""One promise for several detectors at once.

Calibration responses are split in two. Each detector's score becomes t_j(x) = -log of its p-value against the scale
set, an increasing function of the score on a scale that all detectors share. The rule joins these into one
nonconformity score, which is conformalised on the calibration set:

    any       some detector stands out: the largest t_j
    k of m    at least k of the m detectors do: the k-th largest t_j
    all       every one does: the smallest t_j
    learnt    their weighted sum does, with weights learnt on the scale set (`learnt`): sum_j w_j t_j

Guarantee: P(alarm | exchangeable with the calibration set) <= alpha for the joint rule itself, whatever the dependence
between detectors, because the joint score is a fixed function once the scale set is drawn. Thresholding each detector
at alpha and joining the alarms keeps no such promise: `any` exceeds alpha, `all` falls far below it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.split import sorted_scores

Float64 = NDArray[np.float64]
LEARNT: Final = "learnt"
LEAST_EXCESS: Final = 1e-300  # the inverses of both are finite and more than 0
LARGEST_EXCESS: Final = 1e300


def needed_of(rule: str, detectors: int) -> int:
    """How many of the detectors must stand out under a rule; 0 when it is their weighted sum that must.

    Raises CalibrationError when there is no such rule, or it is for another number of detectors.
    """
    fixed = {"any": 1, "all": detectors, LEARNT: 0}
    if rule in fixed:
        return fixed[rule]
    counted = re.fullmatch(r"(\d+) of (\d+)", rule)
    if counted is None:
        raise CalibrationError(f"the joint rule is one of any, all, learnt, or such as '2 of 3', not '{rule}'")
    k, m = int(counted[1]), int(counted[2])
    if m != detectors or not 1 <= k <= m:
        raise CalibrationError(f"the joint rule '{rule}' does not fit {detectors} detectors: name 1 to {detectors} "
                               f"of {detectors}")  # fmt: skip
    return k


def meaning(rule: str) -> str:
    """A rule as the condition of an alarm, in words."""
    words = {
        "any": "some detector stands out",
        "all": "every detector stands out",
        LEARNT: "the detectors' weighted evidence stands out",
    }
    return words.get(rule, f"at least {rule} detectors stand out")


class LogPValueScale:
    """One detector's scale: score -> -log p-value against reference scores (n,), continuous and increasing.

    Between reference scores the map is linear. The largest, a fifth of them but at most 3 sqrt(n), are few and far
    between: there it is that of an exponential tail with their mean excess (peaks over a threshold, Pickands 1975,
    doi:10.1214/aos/1176343003; so many of them as Vehtari et al. 2024, arXiv:1507.02646, take), so that no single one
    of them decides what a far score is worth, and far scores keep their order instead of tying at 1/(n+1).

    `fits_tail=False` is the map of earlier bundles: linear up to the largest, and from there on with the mean excess of
    the upper tenth.
    """

    def __init__(self, reference: Float64, *, fits_tail: bool = True) -> None:
        ordered = sorted_scores(reference)
        n = len(ordered)
        knots, first = np.unique(ordered, return_index=True)
        self.p_at_least = np.append((1.0 + n - first) / (n + 1.0), 1.0 / (n + 1.0))
        surprisals = -np.log(self.p_at_least[:-1])
        with np.errstate(over="ignore"):
            slopes = np.diff(surprisals) / np.diff(knots)
        # Piece i covers knots[i-1] < score <= knots[i]; piece 0 lies below every reference, the last one above.
        self.knots = knots
        self.start = np.concatenate([knots[:1], knots])
        self.value = np.concatenate([surprisals[:1], surprisals])
        self.slope = np.concatenate([[0.0], slopes, [0.0]])
        if fits_tail:
            tail = min(int(np.searchsorted(first, n - 1 - _tail_size(n))), len(knots) - 1)  # the knot it begins at
            mean = _mean_excess(ordered[first[tail] :]) or _mean_excess(knots[-2:])
        else:
            tail, tenth = len(knots) - 1, ordered[int(0.9 * n) :]
            mean = float((tenth - tenth[0]).mean())
        self.start[tail + 1 :], self.value[tail + 1 :] = knots[tail], surprisals[tail]
        self.slope[tail + 1 :] = 1.0 / (mean or max(abs(float(knots[-1])), 1.0) * 1e-6)

    def lists(self) -> tuple[list[float], ...]:
        """Knots, starts, values, slopes and p-values of the pieces, for who looks up one score at a time."""
        return tuple(a.tolist() for a in (self.knots, self.start, self.value, self.slope, self.p_at_least))

    def score_at(self, surprisal: float) -> float:
        """The largest score whose -log p does not exceed `surprisal`: from there on it does."""
        piece = int(np.searchsorted(self.value[1:], surprisal, side="right"))
        slope = self.slope[piece]
        return float(self.start[piece] + (surprisal - self.value[piece]) / slope) if slope else float(self.start[piece])


def _tail_size(n: int) -> int:
    """How many of n reference scores are the tail."""
    return int(min(n / 5, 3 * n**0.5))


def _mean_excess(tail: Float64) -> float:
    """By how much those of ascending scores that exceed the first do so on average; 0 where none does."""
    excess = tail / 2 - tail[0] / 2  # halves, since differences of the largest numbers overflow
    mean = 2 * float((excess / max(int((excess > 0).sum()), 1)).sum())
    return min(max(mean, LEAST_EXCESS), LARGEST_EXCESS) if mean > 0 else 0.0


class JointScore:
    """Scores of all detectors (n, d) -> one nonconformity score (n,), by `rule`, on scales from the scale set.

    High scores speak for an alarm: -inf is worth as little as any score below all of the scale set, +inf more than
    every number, and NaN as much as +inf, so that no nonconformity is NaN.

    `weights` (d,) are those of the rule `learnt`. Raises CalibrationError when the rule does not fit.
    """

    def __init__(
        self,
        reference: Float64,
        rule: str,
        weights: Sequence[float] | Float64 | None = None,
        *,
        fits_tails: bool = True,
    ) -> None:
        self.rule = rule
        columns = np.asarray(reference, np.float64).T
        self.scales = [LogPValueScale(column, fits_tail=fits_tails) for column in columns]
        self._lists = [scale.lists() for scale in self.scales]
        self.needed = needed_of(rule, len(self.scales))
        self.weights = [1.0] * len(self.scales) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(self.scales) or not all(0 <= w < inf for w in self.weights):
            raise CalibrationError(f"{len(self.scales)} detectors need as many weights, finite and 0 or more")
        if self.needed == 0 and weights is None:
            raise CalibrationError(f"the joint rule '{rule}' needs weights")
        # The detectors' pieces one after the other, so that a batch is looked up at once.
        lengths = [len(scale.start) for scale in self.scales]
        self._first = np.concatenate([[0], np.cumsum(lengths)[:-1]])[:, None]
        self._start = np.concatenate([scale.start for scale in self.scales])
        self._value = np.concatenate([scale.value for scale in self.scales])
        self._slope = np.concatenate([scale.slope for scale in self.scales])
        self._p_at_least = np.concatenate([scale.p_at_least for scale in self.scales])
        self._lowest = np.array([scale.knots[:1] for scale in self.scales])

    def __call__(self, scores: NDArray[np.floating]) -> tuple[Float64, Float64]:
        """Joint scores (m,) and each detector's p-values (m, d)."""
        surprisals, pieces = self._surprisals(scores)
        return self._join_columns(surprisals), self._p_at_least.take(pieces).T

    def surprisals(self, scores: NDArray[np.floating]) -> Float64:
        """Each detector's -log p (m, d) of scores (m, d), against the scale set."""
        return self._surprisals(scores)[0].T

    def of(self, scores: list[float]) -> tuple[float, list[float]]:
        """The same for one response, to the bit."""
        if len(scores) != len(self._lists):
            raise ValueError(f"{len(scores)} scores of {len(self._lists)} detectors")
        surprisals: list[float] = []
        pvalues: list[float] = []
        at = 0  # counted here: compiled, that is quicker than to zip
        for knots, start, value, slope, p_at_least in self._lists:
            score = scores[at]
            at += 1
            if score != score:  # a number that is none speaks for an alarm, as nothing could be said for calm
                surprisals.append(inf)
                pvalues.append(p_at_least[-1])
                continue
            piece = bisect_left(knots, score)
            surprisals.append(value[piece] + slope[piece] * (score - start[piece]) if piece else value[0])
            pvalues.append(p_at_least[piece])
        return self._join(surprisals), pvalues

    def _surprisals(self, scores: NDArray[np.floating]) -> tuple[Float64, NDArray[np.intp]]:
        """Each detector's -log p (d, n) of scores (n, d), and the piece of its scale that each lies on."""
        columns = scores.T.astype(np.float64)
        pieces = np.empty(columns.shape, np.intp)
        for row, (scale, column) in enumerate(zip(self.scales, columns, strict=True)):
            pieces[row] = scale.knots.searchsorted(column)
        pieces += self._first
        columns = np.maximum(columns, self._lowest)  # below it all are worth the same, -inf too, whose slope is none
        surprisals = self._value.take(pieces) + self._slope.take(pieces) * (columns - self._start.take(pieces))
        if (unknown := np.isnan(columns)).any():  # as in `of`
            surprisals[unknown] = inf
        return surprisals, pieces

    def _join(self, surprisals: list[float]) -> float:
        """One nonconformity score from the detectors' -log p, by the rule."""
        if self.needed == 1:
            return max(surprisals)
        if self.needed:
            return sorted(surprisals)[-self.needed]
        total = 0.0
        for weight, surprisal in zip(self.weights, surprisals, strict=True):
            if weight:
                total += weight * surprisal
        return total

    def _join_columns(self, surprisals: Float64) -> Float64:
        """The same for n responses: (d, n) -> (n,)."""
        if self.needed == 1:
            return np.asarray(surprisals.max(axis=0))
        if self.needed:
            return np.asarray(np.sort(surprisals, axis=0)[-self.needed])
        total = np.zeros(surprisals.shape[1])
        for weight, row in zip(self.weights, surprisals, strict=True):
            if weight:
                total += weight * row
        return total
