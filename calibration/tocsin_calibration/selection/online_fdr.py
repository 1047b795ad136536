"""Streams: each response is accepted as an alarm or not when it comes, and at most a share of the alarms is false.

Hypothesis t is "response t is safe", rejected (an alarm) when p_t <= alpha_t; alpha_t is paid from a wealth that
discoveries refill. All three keep FDR <= alpha at any time for p-values that are valid given the past, independent of
each other.

- `LordPlusPlus`: never spends more than it earned (Ramdas et al. 2017, arXiv:1710.00499).
- `Saffron`: does not pay for p-values above lambda, which are hardly alternatives; more power when alarms are frequent
  (Ramdas et al. 2018, arXiv:1802.09098).
- `Addis`: also discards p-values above tau, which conservative nulls make many of (Tian and Ramdas 2019,
  arXiv:1905.11465). Conformal p-values with ties are such.

Conformal p-values against one frozen calibration set share its luck, so they are not exactly independent; with n
calibration scores the levels that matter must also stay above 1/(n+1), or nothing can be rejected.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.split import exact

Float64 = NDArray[np.float64]
HORIZON = 100_000  # responses over which a discovery's wealth is spent
MOST_DISCOVERIES = 50  # discoveries whose wealth is still counted; forgetting older ones only lowers levels


class OnlineFDR(Protocol):
    """Decides response by response."""

    @property
    def level(self) -> float:
        """alpha_t of the next p-value."""
        ...

    def decide(self, pvalue: float) -> bool:
        """Whether the response is an alarm; pays for it and goes on to the next."""
        ...


class LordPlusPlus:
    """alpha_t = gamma_t W0 + (alpha - W0) gamma_(t - tau_1) + alpha sum_(j>1) gamma_(t - tau_j), tau_j the alarms."""

    def __init__(self, alpha: float, wealth: float | None = None) -> None:
        self.alpha = float(exact(alpha))
        self._wealth = _wealth(wealth, self.alpha / 2, self.alpha)
        t = np.arange(1, HORIZON + 1)
        gamma = np.log(np.maximum(t, 2)) / (t * np.exp(np.sqrt(np.log(t))))
        self._gamma = gamma / gamma.sum()
        self._time = 0
        self._alarms: list[tuple[int, float]] = []  # when, and the wealth it brought

    @property
    def level(self) -> float:
        now = self._time + 1
        level = self._wealth * _at(self._gamma, now)
        for tau, share in self._alarms:
            level += share * _at(self._gamma, now - tau)
        return level

    def _share(self) -> float:
        return self.alpha if self._alarms else self.alpha - self._wealth

    def decide(self, pvalue: float) -> bool:
        alarm = pvalue <= self.level
        self._time += 1
        if alarm:
            self._alarms.append((self._time, self._share()))
            del self._alarms[:-MOST_DISCOVERIES]
        return alarm


class Addis:
    """ADDIS; with tau = 1 it is SAFFRON. 0 < lambda < tau <= 1.

    alpha_t = min(lambda, (tau - lambda)(W0 gamma_(S - C0) + (alpha - W0) gamma_(S - k_1 - C_1) + alpha sum_j ...)): S
    counts the p-values up to tau so far, k_j those before the j-th alarm, C_j the candidates (up to lambda) since.
    """

    def __init__(
        self, alpha: float, *, tau: float = 0.5, candidates: float = 0.25, wealth: float | None = None
    ) -> None:
        self.alpha = float(exact(alpha))
        if not 0 < candidates < tau <= 1:
            raise CalibrationError(f"0 < lambda < tau <= 1 must hold, not {candidates}, {tau}")
        self._tau, self._lambda = tau, candidates
        self._wealth = _wealth(wealth, self.alpha / 2, self.alpha)
        gamma = np.arange(1, HORIZON + 1) ** -1.6
        self._gamma = gamma / gamma.sum()
        self._candidates_at_tau = self._candidates = 0  # p-values up to tau, up to lambda
        self._alarms: list[tuple[int, int, float]] = []  # both counts, the alarm included, and the wealth it brought

    @property
    def level(self) -> float:
        level = self._wealth * _at(self._gamma, self._candidates_at_tau - self._candidates + 1)
        for candidates_at_tau, candidates, share in self._alarms:
            level += share * _at(
                self._gamma, (self._candidates_at_tau - candidates_at_tau) - (self._candidates - candidates) + 1
            )
        return min(self._lambda, (self._tau - self._lambda) * level)

    def decide(self, pvalue: float) -> bool:
        alarm = pvalue <= self.level
        self._candidates_at_tau += pvalue <= self._tau
        self._candidates += pvalue <= self._lambda
        if alarm:
            share = self.alpha if self._alarms else self.alpha - self._wealth
            self._alarms.append((self._candidates_at_tau, self._candidates, share))
            del self._alarms[:-MOST_DISCOVERIES]
        return alarm


class Saffron(Addis):
    """SAFFRON: ADDIS that discards nothing."""

    def __init__(self, alpha: float, *, candidates: float = 0.5, wealth: float | None = None) -> None:
        super().__init__(alpha, tau=1.0, candidates=candidates, wealth=wealth)


def _wealth(given: float | None, usual: float, most: float) -> float:
    wealth = usual if given is None else given
    if not 0 < wealth <= most:
        raise CalibrationError(f"the initial wealth must lie in (0, {most:g}], not {wealth:g}")
    return wealth


def _at(gamma: Float64, index: int) -> float:
    return float(gamma[index - 1]) if 1 <= index <= len(gamma) else 0.0
