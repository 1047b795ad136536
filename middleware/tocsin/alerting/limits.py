"""The evidence from which somebody should know: one function for rules, metrics, the page and the dashboards."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import NamedTuple

from tocsin.alerting.watched import DELTA, RUN_LENGTH, WatchedModel


class PageLimits(NamedTuple):
    """Logs of evidence, shared among all models and severities of one process (union bound).

    `windows`: of the promise, which is ever exceeded by chance with probability delta at most. `run_length`: the same
    where evidence is configured so; by chance it is exceeded once in the run length, on average at most, all models'
    responses counted. `quiet`: of too few alarms. `drift`: of scores that have drifted.
    """

    windows: float
    run_length: float
    quiet: float
    drift: float

    def of(self, model: WatchedModel) -> float:
        """The limit of a model's evidence against its promise."""
        return self.run_length if model.run_length else self.windows


def page_limits(models: Sequence[WatchedModel], delta: float = DELTA, run_length: float = RUN_LENGTH) -> PageLimits:
    """For all models of a process together."""
    fixed = [model for model in models if model.fixed]
    windows = sum(len(model.severities) for model in fixed if not model.run_length)
    lengths = sum(len(model.severities) for model in fixed if model.run_length)
    return PageLimits(
        log(max(1, windows) / delta),
        log(max(1, lengths) * run_length),
        log(max(1, windows + lengths) / delta),
        log(max(1, len(models)) / delta),
    )
