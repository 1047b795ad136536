"""Levels that follow feedback: a false-alarm rate that tends to alpha under any drift, when labels come back.

All of them act on p-values: alarm when p <= `level`. When a response turns out to have been safe, `learn` takes its
p-value and whether it was alarmed, err; alarmed too often, the level sinks, too seldom, it rises.

Guarantee (of ACI; deterministic, no assumption about the traffic): over T confirmed-safe responses whose
feedback was taken, |mean err - alpha| <= (max(a_1, 1 - a_1) + gamma (D + 1)) / (gamma T), a_1 the first level, where at
most D responses are decided between a response and its label. What they cannot do: say anything about responses whose
truth never comes. DtACI keeps the same with a_1 = 1 and the step of its integral, see there.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, pi, sqrt, tan
from typing import Protocol

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.split import exact

GAMMAS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)  # as DtACI's authors have them


class Adaptive(Protocol):
    """A level that learns."""

    @property
    def level(self) -> float:
        """Alarm when p <= level. It may leave [0, 1]: at or below 0 nothing alarms, at 1 or above everything."""
        ...

    def learn(self, pvalue: float, alarmed: bool) -> None:
        """A response with this p-value was safe, and was alarmed or not."""
        ...


class Additive(Adaptive, Protocol):
    """A level that is a function of two counts, so that what several have learnt can be added up."""

    def add(self, safe: int, alarmed: int) -> None:
        """So many responses were safe elsewhere, and so many of them were alarmed there."""
        ...


class ACI:
    """Adaptive conformal inference: level += gamma (alpha - err) (Gibbs and Candès 2021, arXiv:2106.00170)."""

    def __init__(self, alpha: float, gamma: float = 0.01) -> None:
        self.alpha = float(exact(alpha))
        if not gamma > 0:
            raise CalibrationError(f"the step gamma must be above 0, not {gamma}")
        self.gamma = gamma
        self.level = self.alpha

    def learn(self, pvalue: float, alarmed: bool) -> None:
        """A response was safe, and was alarmed or not; its p-value is not needed."""
        del pvalue
        self.level += self.gamma * (self.alpha - alarmed)

    def add(self, safe: int, alarmed: int) -> None:
        """See Additive."""
        self.level += self.gamma * (self.alpha * safe - alarmed)


class DtACI:
    """Dynamically tuned ACI: one ACI a step size, trusted by their pinball loss (Gibbs and Candès 2024, JMLR 25:162).

    `interval`: over how many feedbacks the best step size may change. Each expert learns from whether it would have
    alarmed; the level is the experts' mean by trust, plus an integral.

    The mean alone keeps no long-run rate: each expert is right about itself, while their mean alarms more seldom or
    more often than any of them. The integral, the sum of `integral` (alpha - err) over what was really alarmed, mends
    that: with the mean held within [0, 1] it is never farther from 0 than 1 + integral (D + 1), as beyond -1 nothing
    alarms and beyond 1 everything does. So |mean err - alpha| <= (1 + integral (D + 1)) / (integral T).
    """

    def __init__(
        self, alpha: float, gammas: Sequence[float] = GAMMAS, interval: int = 500, integral: float = 0.01
    ) -> None:
        self.alpha = a = float(exact(alpha))
        if not gammas or min(gammas) <= 0 or interval < 1 or integral <= 0:
            raise CalibrationError("the steps gamma and of the integral must be above 0, and the interval at least 1")
        self._integral, self._offset = integral, 0.0
        self._gammas = tuple(gammas)
        self._levels = [a] * len(gammas)
        self._trust = [1 / len(gammas)] * len(gammas)
        size = (1 - a) ** 2 * a**3 + a**2 * (1 - a) ** 3
        self._eta = sqrt(3 / interval) * sqrt((log(len(gammas) * interval) + 2) / size)
        self._sigma = 1 / (2 * interval)

    @property
    def level(self) -> float:
        """The experts' mean level by trust, and the integral."""
        mean = sum(t * level for t, level in zip(self._trust, self._levels, strict=True))
        return min(1.0, max(0.0, mean)) + self._offset

    def learn(self, pvalue: float, alarmed: bool) -> None:
        """A response with this p-value was safe; what was done about it matters to the integral alone."""
        self._offset += self._integral * (self.alpha - alarmed)
        losses = [_pinball(pvalue, level, self.alpha) for level in self._levels]
        least = min(losses)
        raw = [t * exp(-self._eta * (loss - least)) for t, loss in zip(self._trust, losses, strict=True)]
        total = sum(raw)
        self._trust = [(1 - self._sigma) * weight / total + self._sigma / len(raw) for weight in raw]
        self._levels = [
            level + gamma * (self.alpha - (pvalue <= level))
            for level, gamma in zip(self._levels, self._gammas, strict=True)
        ]


class ConformalPID:
    """Conformal PID control without a scorecaster (Angelopoulos, Candès and Tibshirani 2023, arXiv:2307.16895).

    The threshold q on the scale -log p moves by `rate` (err - alpha) at each feedback (P), and by a saturating
    function of the errors' running sum S (I), strength tan(S log t / (t saturation)), which grows without bound before
    the excess S / t reaches about 1.6 saturation / log t; level = exp(-q).
    """

    def __init__(self, alpha: float, rate: float = 0.1, saturation: float = 0.5, strength: float = 1.0) -> None:
        self.alpha = float(exact(alpha))
        if not (rate > 0 and saturation > 0 and strength >= 0):
            raise CalibrationError("rate and saturation must be above 0, and strength 0 or more")
        self._rate, self._saturation, self._strength = rate, saturation, strength
        self._tracked = -log(self.alpha)
        self._sum = 0.0
        self._responses = 0

    @property
    def level(self) -> float:
        """exp(-q), above 1 when q is below 0."""
        q = self._tracked + self._integral()
        return exp(-q) if q > -700 else float("inf")

    def learn(self, pvalue: float, alarmed: bool) -> None:
        """A response was safe, and was alarmed or not; its p-value is not needed."""
        del pvalue
        self.add(1, alarmed)

    def add(self, safe: int, alarmed: int) -> None:
        """See Additive."""
        self._responses += safe
        error = alarmed - self.alpha * safe
        self._tracked += self._rate * error
        self._sum += error

    def _integral(self) -> float:
        if self._responses < 2:
            return 0.0
        angle = self._sum * log(self._responses) / (self._responses * self._saturation)
        return self._strength * tan(max(-pi / 2 + 1e-3, min(pi / 2 - 1e-3, angle)))


def _pinball(pvalue: float, level: float, alpha: float) -> float:
    return alpha * (pvalue - level) - min(0.0, pvalue - level)
