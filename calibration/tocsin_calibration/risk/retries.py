"""Retries and cascades with an imperfect verifier: how many tries still help, and what they can never reach.

An answer is right with probability p; the monitor, as verifier, passes right ones with probability t and wrong ones
with probability f. The first answer that passes is served; after K tries without one, nothing is.

- Accuracy of what passes: p t / (p t + (1-p) f), whatever K. Resampling never exceeds it (Stroebl et al. 2024,
  "Inference scaling fLaws", arXiv:2411.17501).
- One try passes with a = p t + (1-p) f; all K fail with (1-a)^K.
- With gain g for a right answer served, loss l for a wrong one, cost c a try and 0 for abstaining, a try is worth
  v = p t g - (1-p) f l - c, and K of them v (1 - (1-a)^K)/a: with independent tries, either none or ever more.
- Tries at one prompt are not independent: prompts differ, p ~ Beta with mean p and correlation rho between tries. Those
  that failed before are the hard ones, the k-th try is worth E[(1-a)^(k-1) v], and the best K is finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]
MAX_TRIES = 64
POINTS = 4_001  # of the integral over prompts


@dataclass(frozen=True, slots=True)
class Verifier:
    """How the monitor does as a verifier, each in [0, 1]: the share of right answers, and of wrong ones, that it
    passes.
    """

    passes_right: float
    passes_wrong: float

    def __post_init__(self) -> None:
        for name, rate in (("right", self.passes_right), ("wrong", self.passes_wrong)):
            if not 0 <= rate <= 1:
                raise CalibrationError(f"the share of {name} answers that pass must lie in [0, 1], not {rate}")


class Stage(NamedTuple):
    """One model that may be asked: how often it is right, and what asking costs."""

    accuracy: float
    cost: float


class Plan(NamedTuple):
    """What `tries` bring, counted from the first. Lists are by K = 1, 2, ...

    `tries`: the K worth most, 0 when abstaining at once is worth more; `endless`: each further try still helped at the
    last K looked at. `ceiling`: the accuracy that no number of tries exceeds.
    """

    tries: int
    endless: bool
    ceiling: float
    values: list[float]  # expected value a request
    accuracies: list[float]  # of what is served
    served: list[float]  # the share of requests that get an answer


def plan_retries(
    accuracy: float,
    verifier: Verifier,
    *,
    gain: float = 1.0,
    loss: float = 1.0,
    cost: float = 0.0,
    correlation: float = 0.0,
    max_tries: int = 16,
) -> Plan:
    """The best number of tries at one model. `correlation` in [0, 1): of two tries at one prompt being right.

    Raises CalibrationError on a rate outside [0, 1] or a negative cost.

        >>> from tocsin_calibration import Verifier
        >>> plan_retries(0.6, Verifier(passes_right=0.95, passes_wrong=0.3), cost=0.2, correlation=0.5).tries
        1
    """
    return plan_cascade(
        [Stage(accuracy, cost)] * _counted(max_tries), verifier, gain=gain, loss=loss, correlation=correlation
    )


def plan_cascade(
    stages: Sequence[Stage], verifier: Verifier, *, gain: float = 1.0, loss: float = 1.0, correlation: float = 0.0
) -> Plan:
    """How far to go through these stages, in order; each answer is served if it passes.

    With a `correlation`, prompts that are hard for one stage are as hard for the others: their quantile is the same.

        >>> from tocsin_calibration import Stage, Verifier
        >>> stages = [Stage(accuracy=0.6, cost=0.1), Stage(accuracy=0.9, cost=0.3)]
        >>> plan_cascade(stages, Verifier(passes_right=0.9, passes_wrong=0.1)).tries
        2
    """
    _check(stages, gain, loss, correlation)
    p, share = _prompts([stage.accuracy for stage in stages], correlation)
    costs = np.array([stage.cost for stage in stages])[:, None]
    right, wrong = p * verifier.passes_right, (1 - p) * verifier.passes_wrong  # (stages, prompts)
    reached = np.vstack([np.ones((1, p.shape[1])), np.cumprod(1 - right - wrong, axis=0)[:-1]])
    values = np.cumsum((reached * (right * gain - wrong * loss - costs)) @ share)
    good, bad = np.cumsum((reached * right) @ share), np.cumsum((reached * wrong) @ share)
    served = good + bad
    accuracies = np.divide(good, served, out=np.full(len(good), np.nan), where=served > 0)
    best = int(np.argmax(values)) + 1 if values.max() > 0 else 0
    endless = best == len(stages) and len(stages) > 1 and values[-1] > values[-2] + 1e-12
    first = _ceiling(stages[0].accuracy, verifier)
    ceiling = max(_ceiling(stage.accuracy, verifier) for stage in stages) if len(set(stages)) > 1 else first
    return Plan(best, bool(endless), ceiling, values.tolist(), accuracies.tolist(), served.tolist())


def correlation_of(attempts: Sequence[Sequence[bool]]) -> float:
    """The correlation between tries at one prompt, from several answers each, right or wrong, in [0, 1).

    The one-way estimator of variance between prompts over all variance. Raises CalibrationError without two prompts of
    two answers.

        >>> round(correlation_of([[True, True], [False, False], [True, False], [True, True]]), 2)
        0.57
    """
    groups = [np.asarray(answers, np.float64) for answers in attempts if len(answers) > 1]
    if len(groups) < 2:
        raise CalibrationError("a correlation needs at least two prompts with two answers each")
    sizes = np.array([len(answers) for answers in groups])
    total, prompts = int(sizes.sum()), len(groups)
    grand = sum(float(answers.sum()) for answers in groups) / total
    between = sum(len(answers) * (float(answers.mean()) - grand) ** 2 for answers in groups) / (prompts - 1)
    within = sum(float(((answers - answers.mean()) ** 2).sum()) for answers in groups) / max(1, total - prompts)
    size = (total - float((sizes**2).sum()) / total) / (prompts - 1)
    total_variance = between + (size - 1) * within
    return float(np.clip((between - within) / total_variance, 0, 1 - 1e-6)) if total_variance > 0 else 0.0


def _ceiling(accuracy: float, verifier: Verifier) -> float:
    good, bad = accuracy * verifier.passes_right, (1 - accuracy) * verifier.passes_wrong
    return good / (good + bad) if good + bad > 0 else float("nan")


def _prompts(accuracies: Sequence[float], correlation: float) -> tuple[Float64, Float64]:
    """Each stage's accuracy at prompts of the same hardness (stages, points), and the prompts' shares (points,)."""
    means = np.asarray(accuracies, np.float64)
    if correlation == 0 or np.isin(means, (0.0, 1.0)).all():
        return means[:, None], np.ones(1)
    quantiles = (np.arange(POINTS) + 0.5) / POINTS
    return np.stack([_beta_quantiles(mean, correlation, quantiles) for mean in means]), np.full(POINTS, 1 / POINTS)


def _beta_quantiles(mean: float, correlation: float, quantiles: Float64) -> Float64:
    """Quantiles of Beta with this mean and 1/(a+b+1) = correlation, on a grid of log-odds where its density is
    smooth.
    """
    if mean in (0.0, 1.0):
        return np.full(len(quantiles), mean)
    size = 1 / correlation - 1
    a, b = mean * size, (1 - mean) * size
    odds = np.linspace(-40 / min(a, 1) - 10, 40 / min(b, 1) + 10, 200_001)
    log_density = -a * np.logaddexp(0, -odds) - b * np.logaddexp(0, odds)
    density = np.exp(log_density - log_density.max())
    cdf = np.cumsum(density)
    return np.asarray(1 / (1 + np.exp(-np.clip(np.interp(quantiles, cdf / cdf[-1], odds), -700, 700))), np.float64)


def _counted(max_tries: int) -> int:
    if not 1 <= max_tries <= MAX_TRIES:
        raise CalibrationError(f"the tries to look at are 1 to {MAX_TRIES}, not {max_tries}")
    return max_tries


def _check(stages: Sequence[Stage], gain: float, loss: float, correlation: float) -> None:
    if not stages:
        raise CalibrationError("a cascade needs at least one stage")
    for stage in stages:
        if not 0 <= stage.accuracy <= 1 or stage.cost < 0:
            raise CalibrationError(f"accuracy lies in [0, 1] and a try costs 0 or more, not {stage}")
    if gain < 0 or loss < 0 or not 0 <= correlation < 1:
        raise CalibrationError("gain and loss must be 0 or more, and the correlation lie in [0, 1)")
