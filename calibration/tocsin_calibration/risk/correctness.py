"""From a score to the probability that the answer is right, learnt on labelled responses.

Four ways, all monotone: the higher the score (worse), the lower the probability.

- `VennAbers`: two isotonic fits, with the new response counted right and counted wrong, give an interval [p0, p1]; one
  of them is perfectly calibrated, whichever the truth turns out to be (Vovk, Petej and Fedorova 2015,
  arXiv:1511.00213). Guarantee: exchangeable labelled responses are enough. The single probability is p1 / (1 - p0 +
  p1).
- `Isotonic`: one isotonic fit; as flexible, without the guarantee, overconfident at the ends.
- `Platt`: a logistic curve; for few labels, where its shape is right (Platt 1999, with his smoothed targets).
- `Temperature`: a confidence in (0, 1) with its log-odds divided by one number (Guo et al. 2017, arXiv:1706.04599).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.risk.isotonic import isotonic, isotonic_with_one_more

Float64 = NDArray[np.float64]


class Correctness(Protocol):
    """P(the answer is right) by score."""

    name: ClassVar[str]

    @classmethod
    def fit(cls, scores: ArrayLike, correct: ArrayLike) -> Self:
        """From scores (n,), higher = worse, and whether the answers were right (n,)."""
        ...

    def __call__(self, scores: ArrayLike) -> Float64:
        """Probabilities (m,) of scores (m,)."""
        ...

    def arrays(self) -> dict[str, Float64]:
        """What `from_arrays` makes it of again."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Float64]) -> Self:
        """The same map again."""
        ...


class VennAbers:
    """[p0, p1] at every score, looked up: the 2K+1 places at and between the K distinct calibration scores."""

    name: ClassVar[str] = "venn_abers"

    def __init__(self, knots: Float64, low: Float64, high: Float64) -> None:
        self._knots, self._low, self._high = knots, low, high

    @classmethod
    def fit(cls, scores: ArrayLike, correct: ArrayLike) -> Self:
        """Exact at every place: each is the isotonic fit with one more response, right or wrong."""
        values, right = _checked(scores, correct)
        goodness = -values  # isotonic fits rise
        knots, at = np.unique(goodness, return_inverse=True)
        weight = np.bincount(at).astype(np.float64)
        total = np.asarray(np.bincount(at, weights=right), np.float64)
        low, high = isotonic_with_one_more(total, weight, 0.0), isotonic_with_one_more(total, weight, 1.0)
        return cls(knots, low, high)

    def interval(self, scores: ArrayLike) -> tuple[Float64, Float64]:
        """p0 (m,) and p1 (m,) of scores (m,)."""
        goodness = -np.asarray(scores, np.float64)
        place = self._knots.searchsorted(goodness, "left") + self._knots.searchsorted(
            goodness, "right"
        )  # 2i at a gap before knot i, 2i+1 at knot i
        return self._low[place], self._high[place]

    def __call__(self, scores: ArrayLike) -> Float64:
        low, high = self.interval(scores)
        return np.asarray(high / (1 - low + high), np.float64)

    def arrays(self) -> dict[str, Float64]:
        return {"knots": self._knots, "low": self._low, "high": self._high}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Float64]) -> Self:
        instance = cls(arrays["knots"], arrays["low"], arrays["high"])
        if not len(instance._low) == len(instance._high) == 2 * len(instance._knots) + 1:
            raise CalibrationError("the Venn-Abers map's parts do not fit each other")
        return instance


class Isotonic:
    """The isotonic fit at the calibration scores, linear between them, constant beyond."""

    name: ClassVar[str] = "isotonic"

    def __init__(self, knots: Float64, values: Float64) -> None:
        self._knots, self._values = knots, values

    @classmethod
    def fit(cls, scores: ArrayLike, correct: ArrayLike) -> Self:
        """Pool adjacent violators."""
        values, right = _checked(scores, correct)
        knots, at = np.unique(-values, return_inverse=True)
        weight = np.bincount(at).astype(np.float64)
        return cls(knots, isotonic(np.asarray(np.bincount(at, weights=right), np.float64), weight))

    def __call__(self, scores: ArrayLike) -> Float64:
        return np.asarray(np.interp(-np.asarray(scores, np.float64), self._knots, self._values), np.float64)

    def arrays(self) -> dict[str, Float64]:
        return {"knots": self._knots, "values": self._values}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Float64]) -> Self:
        return cls(arrays["knots"], arrays["values"])


class Platt:
    """1 / (1 + exp(a s + b)), a >= 0."""

    name: ClassVar[str] = "platt"

    def __init__(self, slope: float, offset: float) -> None:
        self.slope, self.offset = slope, offset

    @classmethod
    def fit(cls, scores: ArrayLike, correct: ArrayLike) -> Self:
        """Newton's method on Platt's targets (n_right + 1)/(n_right + 2) and 1/(n_wrong + 2)."""
        values, right = _checked(scores, correct)
        targets = np.where(right > 0, (right.sum() + 1) / (right.sum() + 2), 1 / (len(right) - right.sum() + 2))
        slope, offset = _logistic(values, targets)
        if slope < 0:  # worse scores for better answers: the score tells nothing of the kind
            slope, offset = 0.0, float(np.log(1 / targets.mean() - 1))
        return cls(slope, offset)

    def __call__(self, scores: ArrayLike) -> Float64:
        exponent = np.clip(self.slope * np.asarray(scores, np.float64) + self.offset, -500, 500)
        return np.asarray(1 / (1 + np.exp(exponent)), np.float64)

    def arrays(self) -> dict[str, Float64]:
        return {"platt": np.array([self.slope, self.offset])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Float64]) -> Self:
        slope, offset = arrays["platt"].tolist()
        return cls(slope, offset)


class Temperature:
    """sigmoid(logit(1 - s) / T) for scores that are 1 - confidence, in (0, 1), such as `max_softmax`."""

    name: ClassVar[str] = "temperature"

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    @classmethod
    def fit(cls, scores: ArrayLike, correct: ArrayLike) -> Self:
        """The T of the largest likelihood, by golden section on log T in [log 0.01, log 100].

        Raises CalibrationError when scores lie outside [0, 1].
        """
        values, right = _checked(scores, correct)
        if values.min() < 0 or values.max() > 1:
            raise CalibrationError(
                f"temperature scaling needs scores in [0, 1], 1 less confidence, not "
                f"{values.min():g} to {values.max():g}"
            )
        odds = _logit(1 - values)

        def loss(log_t: float) -> float:
            scaled = odds / np.exp(log_t)
            return float(np.mean(np.logaddexp(0, scaled) - right * scaled))

        low, high, golden = np.log(0.01), np.log(100), (5**0.5 - 1) / 2
        for _ in range(60):
            a, b = high - golden * (high - low), low + golden * (high - low)
            low, high = (low, b) if loss(a) < loss(b) else (a, high)
        return cls(float(np.exp((low + high) / 2)))

    def __call__(self, scores: ArrayLike) -> Float64:
        odds = _logit(1 - np.asarray(scores, np.float64)) / self.temperature
        return np.asarray(1 / (1 + np.exp(-odds)), np.float64)

    def arrays(self) -> dict[str, Float64]:
        return {"temperature": np.array([self.temperature])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Float64]) -> Self:
        return cls(float(arrays["temperature"][0]))


WAYS: dict[str, type[Correctness]] = {way.name: way for way in (VennAbers, Isotonic, Platt, Temperature)}


def _logit(p: Float64) -> Float64:
    clipped = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), np.float64)


def _logistic(values: Float64, targets: Float64) -> tuple[float, float]:
    """Slope and offset of P(right) = 1 / (1 + exp(a s + b)) of the largest likelihood, with a trace of ridge."""
    mean, scale = values.mean(), values.std() or 1.0
    x = np.stack([-(values - mean) / scale, -np.ones(len(values))], axis=1)
    beta = np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, x.T @ (targets - p) - 1e-6 * beta)
        step *= min(1.0, 4 / max(1e-12, float(np.abs(step).max())))
        beta += step
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[0] / scale), float(beta[1] - beta[0] * mean / scale)


def _checked(scores: ArrayLike, correct: ArrayLike) -> tuple[Float64, Float64]:
    """Scores (n,) and labels (n,) of 0 and 1. Raises CalibrationError."""
    values, right = np.asarray(scores, np.float64), np.asarray(correct, np.float64)
    if values.ndim != 1 or values.shape != right.shape or len(values) < 2:
        raise CalibrationError(
            f"scores and labels must be two lists of one length, not {values.shape} and {right.shape}"
        )
    if not np.isfinite(values).all() or not np.isin(right, (0.0, 1.0)).all():
        raise CalibrationError("scores must be finite, and labels true or false, one a response")
    return values, right
