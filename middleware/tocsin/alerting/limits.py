"""The limits of evidence for alerts, computed in one place for rules, metrics, the page and the dashboards."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import NamedTuple

from tocsin.alerting.watched import DELTA, RUN_LENGTH, WatchedModel


class PageLimits(NamedTuple):
    """Logs of evidence, divided among all models and severities of one process (union bound).

    `windows`: the limit for the promise, which chance ever exceeds with probability at most delta. `run_length`: the
    same where evidence is configured so; chance exceeds it once in the run length on average at most, all models'
    responses counted. `quiet`: for too few alarms. `drift`: for drifted scores.
    """

    windows: float
    run_length: float
    quiet: float
    drift: float

    def of(self, model: WatchedModel) -> float:
        """The limit of a model's evidence against its promise."""
        return self.run_length if model.run_length else self.windows


def page_limits(models: Sequence[WatchedModel], delta: float = DELTA, run_length: float = RUN_LENGTH) -> PageLimits:
    """The limits for all models of a process together."""
    fixed = [model for model in models if model.fixed]
    windows = sum(len(model.severities) for model in fixed if not model.run_length)
    lengths = sum(len(model.severities) for model in fixed if model.run_length)
    return PageLimits(
        log(max(1, windows) / delta),
        log(max(1, lengths) * run_length),
        log(max(1, windows + lengths) / delta),
        log(max(1, len(models)) / delta),
    )
