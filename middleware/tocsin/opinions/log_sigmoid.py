"""Several opinions of an answer as one score, by the sum of log-sigmoids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log, log1p
from typing import ClassVar

import numpy as np

from tocsin.configuration.opinions import LogSigmoidConfig, LogSigmoidPart


class LogSigmoid:
    """-sum_j log sigma((c_j - s_j) / w_j), nats, 0 or more, of the scores s_j of other opinions: minus the log of the
    probability that the answer is good in every respect, where each has the probability sigma((c_j - s_j) / w_j) of
    being good and they are independent.

    No call of the judge. One very bad score counts, whatever the others are; beyond c_j, good ones add nearly nothing.
    With c_j and w_j fixed before calibration it is one score as any other, so that its promise holds whatever the
    dependence between the opinions. The scores of a call from which one of these opinions is lost are lost with it.

    Source: Wang et al. (2024), Transforming and Combining Rewards, arXiv:2402.00742, with -s_j as reward.
    """

    kind: ClassVar[str] = "log_sigmoid"
    source: ClassVar[str] = "Wang et al. 2024, arXiv:2402.00742"

    def __init__(self, config: LogSigmoidConfig) -> None:
        self.parts = dict(config.of)

    def combine(self, scores: Mapping[str, float]) -> float:
        """The score of an answer from its scores by opinion, of which there must be every one of `parts`."""
        return sum(_softplus((scores[name] - part.center) / part.scale) for name, part in self.parts.items())


def part_of(scores: Sequence[float]) -> LogSigmoidPart | None:
    """A center and a scale for the scores (n,) of safe answers: their median, and the scale of the logistic
    distribution that has their interquartile range. None where that is 0.
    """
    lower, median, upper = np.quantile(scores, (0.25, 0.5, 0.75)).tolist()
    return LogSigmoidPart(center=median, scale=(upper - lower) / (2 * log(3))) if upper > lower else None


def _softplus(x: float) -> float:
    return max(x, 0.0) + log1p(exp(-abs(x)))
