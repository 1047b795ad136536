"""Guaranteed selective risk: answer only what scores at most lambda, with lambda chosen so that a risk stays bounded.

Scores are higher = worse; losses lie in [0, 1], 1 for a wrong answer. Three guarantees, from labelled responses:

- `conformal_risk_control`: E[loss of what is served, 0 where abstained] <= r on the next response, on average over
  calibration sets: the largest lambda with (n R(lambda) + 1)/(n + 1) <= r (Angelopoulos et al. 2022, arXiv:2208.02814).
- `learn_then_test`: P(mean loss among served <= r) >= 1 - delta over the calibration draw: thresholds fixed beforehand,
  tested in sequence from strict to lenient until one fails, by binomial p-values for losses of 0 and 1 and
  Hoeffding-Bentkus ones for others (Angelopoulos et al. 2021, arXiv:2110.01052).
- `sgr`: nearly the same for losses of 0 and 1, by exact binomial bounds along a binary search, each with its share of
  delta (Geifman and El-Yaniv 2017, arXiv:1705.08500). Its union bound counts the steps of the search, not the
  thresholds that it might have visited; where the promise has to be exact, use `learn_then_test`.

Each answer comes with its coverage, since a risk without it says nothing, and "no threshold reaches this risk" is one.
"""

from __future__ import annotations

from math import ceil, e, exp, log, log1p
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.binomial import binomial_cdf, upper_bound

Float64 = NDArray[np.float64]
GRID_SHARE = 0.2  # of the responses, which say where the thresholds to be tried lie
STEPS = 100  # thresholds to be tried


class Selective(NamedTuple):
    """Serve what scores at most `threshold`; None: no threshold reaches the risk, and nothing may be served.

    `coverage`: the share of calibration responses that would be served; `risk`: the loss seen there, by the guarantee's
    own definition.
    """

    threshold: float | None
    coverage: float
    risk: float

    def __str__(self) -> str:
        if self.threshold is None:
            return "no threshold reaches this risk: abstain from everything, get better scores, or allow more risk"
        return f"serve scores up to {self.threshold:.6g}: coverage {self.coverage:.1%}, risk seen {self.risk:.2%}"


NOTHING = Selective(None, 0.0, 0.0)


def conformal_risk_control(scores: ArrayLike, losses: ArrayLike, risk: float) -> Selective:
    """The largest threshold for which a wrong answer is served in at most a share `risk` of all responses, on
    average.

        >>> import numpy as np
        >>> scores = np.linspace(0, 1, 100)  # of uncertainty
        >>> wrong = scores > 0.8
        >>> bound = conformal_risk_control(scores, wrong, risk=0.1)
        >>> round(float(bound.threshold), 2)
        0.89
    """
    values, lost = _checked(scores, losses, risk)
    order = np.argsort(values, kind="stable")
    values, cumulated = values[order], np.cumsum(lost[order])
    n = len(values)
    ends = np.flatnonzero(np.append(values[1:] > values[:-1], True))  # tied scores are served together
    admissible = ends[(cumulated[ends] + 1) / (n + 1) <= risk]
    if not len(admissible):
        return NOTHING
    at = int(admissible[-1])
    return Selective(float(values[at]) if at < n - 1 else float("inf"), (at + 1) / n, float(cumulated[at] / n))


def learn_then_test(
    scores: ArrayLike, losses: ArrayLike, risk: float, delta: float = 0.1, *, seed: int = 0
) -> Selective:
    """The largest threshold whose mean loss among served is at most `risk`, with confidence 1 - delta.

    A fifth of the responses, drawn by `seed`, only say where thresholds lie, and at which one the sequence had best
    begin; the others are what it is tested on.

        >>> import numpy as np
        >>> scores = np.linspace(0, 1, 1_000)
        >>> bound = learn_then_test(scores, scores > 0.9, risk=0.05)
        >>> bound.threshold is not None
        True
    """
    aside, rest = _divided(scores, losses, risk, delta, seed)
    grid = _grid(aside.scores)
    binary = bool(np.isin(rest.losses, (0.0, 1.0)).all())
    # Where the p-value would be smallest, were the others like those aside.
    promising = []
    for threshold in grid:
        served = aside.losses[aside.scores <= threshold]
        size = round(len(served) / len(aside.losses) * len(rest.losses))
        promising.append(_pvalue(float(served.mean()), size, risk, binary) if len(served) and size else 1.0)
    best = NOTHING
    for threshold in grid[int(np.argmin(promising)) :]:
        served = rest.losses[rest.scores <= threshold]
        if not len(served) or _pvalue(float(served.mean()), len(served), risk, binary) > delta:
            break
        best = Selective(float(threshold), len(served) / len(rest.losses), float(served.mean()))
    return best


def sgr(scores: ArrayLike, losses: ArrayLike, risk: float, delta: float = 0.1, *, seed: int = 0) -> Selective:
    """The largest threshold found whose error among served is at most `risk`, with confidence 1 - delta; 0/1 losses.

    >>> import numpy as np
    >>> scores = np.linspace(0, 1, 1_000)
    >>> sgr(scores, scores > 0.9, risk=0.05).threshold is not None
    True
    """
    aside, (values, lost) = _divided(scores, losses, risk, delta, seed)
    grid = _grid(aside.scores)
    if not np.isin(lost, (0.0, 1.0)).all():
        raise CalibrationError("SGR bounds the share of wrong answers: losses must be 0 or 1")
    steps = ceil(np.log2(len(grid) + 1))
    low, high, best = 0, len(grid) - 1, NOTHING
    while low <= high:
        middle = (low + high) // 2
        served = lost[values <= grid[middle]]
        if upper_bound(int(served.sum()), len(served), delta / steps) <= risk:
            best, low = Selective(float(grid[middle]), len(served) / len(lost), float(served.mean())), middle + 1
        else:
            high = middle - 1
    return best


def bounded_risk(scores: ArrayLike, losses: ArrayLike, risk: float, method: str, delta: float = 0.1) -> Selective:
    """By the method of that name: crc, ltt or sgr."""
    if method == "crc":
        return conformal_risk_control(scores, losses, risk)
    if method not in ("ltt", "sgr"):
        raise CalibrationError(f"a risk is bounded by crc, ltt or sgr, not '{method}'")
    return (learn_then_test if method == "ltt" else sgr)(scores, losses, risk, delta)


def hoeffding_bentkus(mean: float, n: int, risk: float) -> float:
    """A p-value for "the true mean loss exceeds `risk`" from the mean of n losses in [0, 1] (Bates et al. 2021)."""
    m = min(mean, risk)
    relative = (m * log(m / risk) if m > 0 else 0.0) + ((1 - m) * (log1p(-m) - log1p(-risk)) if m < 1 else 0.0)
    return min(1.0, exp(-n * relative), e * binomial_cdf(ceil(n * mean - 1e-9), n, risk))


def _pvalue(mean: float, n: int, risk: float, binary: bool) -> float:
    return binomial_cdf(round(n * mean), n, risk) if binary else hoeffding_bentkus(mean, n, risk)


class _ScoredLosses(NamedTuple):
    scores: Float64
    losses: Float64


def _divided(
    scores: ArrayLike, losses: ArrayLike, risk: float, delta: float, seed: int
) -> tuple[_ScoredLosses, _ScoredLosses]:
    """The responses that say where to look, and those that are looked at."""
    values, lost = _checked(scores, losses, risk)
    if not 0 < delta < 1:
        raise CalibrationError(f"delta must lie strictly between 0 and 1, not {delta}")
    order = np.random.default_rng(seed).permutation(len(values))
    aside, rest = np.split(order, [max(1, round(GRID_SHARE * len(values)))])
    if not len(rest):
        raise CalibrationError(f"{len(values)} labelled response cannot bound a risk; give more")
    return _ScoredLosses(values[aside], lost[aside]), _ScoredLosses(values[rest], lost[rest])


def _grid(scores: Float64) -> Float64:
    """Thresholds to be tried, rising; the last serves everything."""
    grid = np.quantile(scores, np.linspace(0, 1, STEPS + 1)[1:])
    grid[-1] = np.inf
    return np.unique(grid)


def _checked(scores: ArrayLike, losses: ArrayLike, risk: float) -> tuple[Float64, Float64]:
    """Scores (n,) and losses (n,) in [0, 1]. Raises CalibrationError."""
    values, lost = np.asarray(scores, np.float64), np.asarray(losses, np.float64)
    if values.ndim != 1 or values.shape != lost.shape or not len(values):
        raise CalibrationError(
            f"scores and losses must be two lists of one length, not {values.shape} and {lost.shape}"
        )
    if not np.isfinite(values).all() or not ((lost >= 0) & (lost <= 1)).all():
        raise CalibrationError("scores must be finite, and losses lie in [0, 1]")
    if not 0 < risk < 1:
        raise CalibrationError(f"the risk must lie strictly between 0 and 1, not {risk}")
    return values, lost
