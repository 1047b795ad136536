"""Evidence about the ratio of two alarm rates, a canary's and a stable version's, that may be looked at for ever.

Counts arrive in batches of concurrent responses: of n_c canary responses c_c alarmed, of n_s stable ones c_s. Null: the
canary's rate is at most rho times the stable one's, p_c <= rho p_s; or at least, p_c >= rho p_s. An alternative names
two rates, (q_c, q_s), beyond the null. The e-value of a batch is the likelihood of its counts at the alternative over
that at the point (a, s), a = rho s, of the null's boundary for which

    n_c (q_c - a) / (1 - a) + n_s (q_s - s) / (1 - s) = 0

(Turner, Ly and Grunwald 2024, arXiv:2106.02693, for rho = 1, where s is the weighted mean of q_c and q_s; Turner and
Grunwald 2023, arXiv:2203.09785, for ratios).

**Its mean is at most 1.** Let the responses of a batch alarm with chances p_i, independently given what came before the
batch. A canary response's factor has the mean 1 + (p_i - a)(q_c - a)/(a(1-a)), a stable one's
1 + (p_i - s)(q_s - s)/(s(1-s)). With log(1+x) <= x, with mean chances p_c and p_s of the batch, and by the equation
above, the log of the batch's mean is at most n_c (q_c - a)/(a (1-a)) (p_c - rho p_s), which is at most 0 under the null
in either direction. Nothing else about the p_i is used: they may change from batch to batch as they like, together,
and differ within one.

Products over batches are therefore supermartingales from 1 for a fixed alternative, so are their mixtures E, and
P(E ever reaches 1/delta) <= delta (Ville 1939), whenever and however often it is looked at. A batch without responses
of one of the two has the e-value 1. How responses are cut into batches and divided between the two must not depend on
their alarms.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.online.ratio_alternatives import HIGHEST, Direction, alternatives

Floats = NDArray[np.float64]
ALMOST_ONE = 1 - 1e-12
STAKES = ((0.1, 0.2), (0.25, 0.3), (0.5, 0.3), (0.8, 0.2))  # of what may be lost, in bets on pairs


class StreamComparison(Protocol):
    """Batches of counts, and what they say of the ratio between the canary's rate and what it is held to."""

    @property
    def canary(self) -> tuple[int, int]:
        """Alarms and responses in all."""

    @property
    def stable(self) -> tuple[int, int] | None:
        """Alarms and responses of what the canary is compared with; None for a rate that was promised."""

    @property
    def reference_rate(self) -> float | None:
        """The rate that the canary is compared with, as seen so far; None before the first response."""

    @property
    def highest_ratio(self) -> float:
        """Above every ratio that is possible."""

    def log_increments(self, ratio: float, direction: Direction) -> tuple[Floats, Floats]:
        """Trust (J,) in each alternative, and logs (J, T) of the batches' e-values against the null that the rates'
        ratio is at most `ratio` (direction "above"), or at least ("below").
        """

    def log_growth(self, ratio: float, direction: Direction) -> Floats:
        """How much each alternative's log grows a canary response, on average, at the rates so far (J,)."""


class _MeasuredReference:
    """What is compared with a rate that was counted, which may be as low as it likes."""

    @property
    def stable(self) -> tuple[int, int]:
        """Alarms and responses of what the canary is compared with."""
        raise NotImplementedError

    @property
    def reference_rate(self) -> float | None:
        """The rate so far; None before the first response."""
        alarms, responses = self.stable
        return alarms / responses if responses else None

    @property
    def highest_ratio(self) -> float:
        """No ratio is impossible."""
        return inf


@dataclass(frozen=True)
class Streams(_MeasuredReference):
    """Two streams side by side: counts (T,) of batches, and the stable rate that alternatives are built around.

    `baseline` changes the power, hardly, and never the guarantee; it must not be chosen by the counts.
    """

    canary_alarms: Floats
    canary_responses: Floats
    stable_alarms: Floats
    stable_responses: Floats
    baseline: float = 0.05

    @classmethod
    def of(cls, canary: ArrayLike, stable: ArrayLike, baseline: float = 0.05) -> Streams:
        """From rows (T, 2) of alarms and responses each. Raises CalibrationError where they are no counts."""
        c, s = _counts(canary), _counts(stable)
        if len(c) != len(s):
            raise CalibrationError(f"there are {len(c)} batches of the canary and {len(s)} of the stable version")
        _check_rate(baseline, "the baseline")
        return cls(c[:, 0], c[:, 1], s[:, 0], s[:, 1], baseline)

    @property
    def canary(self) -> tuple[int, int]:
        """Alarms and responses of the canary in all."""
        return int(self.canary_alarms.sum()), int(self.canary_responses.sum())

    @property
    def stable(self) -> tuple[int, int]:
        """Alarms and responses of the stable version in all."""
        return int(self.stable_alarms.sum()), int(self.stable_responses.sum())

    def log_increments(self, ratio: float, direction: Direction) -> tuple[Floats, Floats]:
        """See `StreamComparison`."""
        if direction == "above" and ratio * self.baseline >= HIGHEST:
            return np.ones(1), np.zeros((1, len(self.canary_alarms)))  # no bet that high
        both = (self.canary_responses > 0) & (self.stable_responses > 0)
        responses = self.canary_responses + self.stable_responses
        share = np.divide(self.canary_responses, responses, out=np.full_like(responses, 0.5), where=both)
        trust, ratios = alternatives(ratio, direction, HIGHEST / self.baseline)
        logs = []
        for other in ratios:
            q = other * self.baseline
            s = boundary(share, q, self.baseline, ratio)
            logs.append(
                _log_ratio(self.canary_alarms, self.canary_responses, q, np.minimum(ratio * s, ALMOST_ONE))
                + _log_ratio(self.stable_alarms, self.stable_responses, self.baseline, s)
            )
        return trust, np.where(both, np.array(logs), 0.0)

    def log_growth(self, ratio: float, direction: Direction) -> Floats:
        """See `StreamComparison`."""
        both = (self.canary_responses > 0) & (self.stable_responses > 0)
        c, n = self.canary_alarms[both].sum() + 0.5, self.canary_responses[both].sum() + 1
        d, m = self.stable_alarms[both].sum() + 0.5, self.stable_responses[both].sum() + 1
        mean = Streams(np.array([c / n]), np.ones(1), np.array([d / n]), np.array([m / n]), self.baseline)
        return mean.log_increments(ratio, direction)[1][:, 0]


@dataclass(frozen=True)
class AgainstRate:
    """A canary beside a rate that was promised: counts (T,) of batches. Null: each response alarms with a chance of at
    most `ratio` times the rate, or at least, given what came before. The e-value is the likelihood ratio of two rates.
    """

    canary_alarms: Floats
    canary_responses: Floats
    rate: float

    @classmethod
    def of(cls, canary: ArrayLike, rate: float) -> AgainstRate:
        """From rows (T, 2) of alarms and responses. Raises CalibrationError where they are no counts, or it no rate."""
        counts = _counts(canary)
        _check_rate(rate, "the promised rate")
        return cls(counts[:, 0], counts[:, 1], rate)

    @property
    def canary(self) -> tuple[int, int]:
        """Alarms and responses of the canary in all."""
        return int(self.canary_alarms.sum()), int(self.canary_responses.sum())

    @property
    def stable(self) -> None:
        """Nothing was counted."""
        return None

    @property
    def reference_rate(self) -> float | None:
        """The promised rate."""
        return self.rate

    @property
    def highest_ratio(self) -> float:
        """Of a rate of 1 to the promised one."""
        return 1 / self.rate

    def log_increments(self, ratio: float, direction: Direction) -> tuple[Floats, Floats]:
        """See `StreamComparison`."""
        trust, ratios = alternatives(ratio, direction, HIGHEST / self.rate)
        logs = [
            _log_ratio(self.canary_alarms, self.canary_responses, other * self.rate, ratio * self.rate)
            for other in ratios
        ]
        return trust, np.array(logs)

    def log_growth(self, ratio: float, direction: Direction) -> Floats:
        """See `StreamComparison`."""
        alarms, responses = self.canary
        mean = AgainstRate(np.array([(alarms + 0.5) / (responses + 1)]), np.ones(1), self.rate)
        return mean.log_increments(ratio, direction)[1][:, 0]


@dataclass(frozen=True)
class Pairs(_MeasuredReference):
    """Two judgements of the same responses, a candidate's and the live bundle's: counts (T,) of batches of responses,
    and of those that alarmed by both, by the candidate alone, and by the live one alone.

    Null: given what came before, the candidate alarms with a chance of at most `ratio` times that of the live one, or
    at least. A bet on it: the stake x in [0, 1) of what may be lost wins 1 - ratio, 1 or -ratio times for these three
    kinds, and nothing for the others, whose mean under the null is at most 0 (or the same with its sign changed). The
    two may depend on each other as they like.
    """

    responses: Floats
    both: Floats
    candidate_only: Floats
    live_only: Floats

    @classmethod
    def of(cls, counts: ArrayLike) -> Pairs:
        """From rows (T, 4): responses, alarms by both, by the candidate alone, by the live one alone."""
        rows = np.asarray(counts, np.float64).reshape(-1, 4)
        if not np.isfinite(rows).all() or (rows < 0).any() or (rows[:, 1:].sum(axis=1) > rows[:, 0]).any():
            raise CalibrationError("counts of pairs are 0 or more, and no more of them alarm than there are")
        return cls(*rows.T)

    @property
    def canary(self) -> tuple[int, int]:
        """Alarms of the candidate, and responses, in all."""
        return int(self.both.sum() + self.candidate_only.sum()), int(self.responses.sum())

    @property
    def stable(self) -> tuple[int, int]:
        """Alarms of the live bundle, and responses, in all."""
        return int(self.both.sum() + self.live_only.sum()), int(self.responses.sum())

    def log_increments(self, ratio: float, direction: Direction) -> tuple[Floats, Floats]:
        """See `StreamComparison`."""
        sign = 1.0 if direction == "above" else -1.0
        wins = sign * np.array([1 - ratio, 1.0, -ratio])
        worst = max(0.0, -wins.min())
        stakes = np.array([stake for stake, _ in STAKES]) / (worst or 1.0)
        trust = np.array([share for _, share in STAKES])
        counts = np.array([self.both, self.candidate_only, self.live_only])  # (3, T)
        return trust, np.log1p(np.outer(stakes, wins)) @ counts

    def log_growth(self, ratio: float, direction: Direction) -> Floats:
        """See `StreamComparison`."""
        totals = [kind.sum() + 0.25 for kind in (self.both, self.candidate_only, self.live_only)]
        responses = self.responses.sum() + 1
        mean = Pairs(np.ones(1), *(np.array([total / responses]) for total in totals))
        return mean.log_increments(ratio, direction)[1][:, 0]


def boundary(share: ArrayLike, q_canary: float, q_stable: float, ratio: float) -> Floats:
    """The stable rate s at which the null's boundary (ratio s, s) is nearest to an alternative, where a share (T,) of
    the responses is the canary's: the smaller root of the equation above, in (0, 1/ratio).
    """
    f = np.asarray(share, np.float64)
    linear = f * (q_canary + ratio) + (1 - f) * (ratio * q_stable + 1)
    constant = f * q_canary + (1 - f) * q_stable
    root = np.sqrt(np.maximum(linear * linear - 4 * ratio * constant, 0.0))
    result: Floats = 2 * constant / (linear + root)
    return result


def _log_ratio(alarms: Floats, responses: Floats, q: float, p: Floats | float) -> Floats:
    """log of the likelihood of counts at the rate q over that at p."""
    result: Floats = alarms * np.log(q / p) + (responses - alarms) * (np.log1p(-q) - np.log1p(-np.asarray(p)))
    return result


def _counts(rows: ArrayLike) -> Floats:
    counts = np.asarray(rows, np.float64).reshape(-1, 2)
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts[:, 0] > counts[:, 1]).any():
        raise CalibrationError("counts are 0 or more, and no more responses alarm than there are")
    return counts


def _check_rate(rate: float, what: str) -> None:
    if not 0 < rate < 0.8:
        raise CalibrationError(f"{what} must lie between 0 and 0.8, not {rate:g}")
