"""Judging recorded sessions one after the other, as they would have been judged live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.promise import Promise
from tocsin_calibration.sessions.grouping import rows_by_session
from tocsin_calibration.thresholds.limits import Limits


@dataclass(frozen=True)
class SessionOutcome:
    """What became of each session."""

    severities: list[str | None]
    pvalues: list[float]  # the lowest of each session
    first: list[int | None]  # the step of each one's first alarm
    lengths: list[int]
    highest: list[float]  # what was compared with the threshold, at its highest
    steps: list[list[str | None]]  # the severity at each step

    def promised(self, promise: Promise) -> tuple[str, list[str | None], Limits]:
        """What the promise is about: in words, the severities it counts, and by which limits.

        A session's worst severity, or, where each step has a promise of its own, that at one step: the last one that
        nine in ten of the sessions reached.
        """
        assert promise.sessions is not None
        if promise.sessions.style != "step":
            return promise.unit, self.severities, promise.limits
        step = max(1, int(np.quantile(self.lengths, 0.1)))
        at_step = [severities[step - 1] for severities in self.steps if len(severities) >= step]
        return f"{promise.unit}, at step {step}", at_step, promise.groups.get(str(step), promise.limits)


def by_session(promise: Promise, scores: NDArray[np.floating], sessions: Sequence[str] | None) -> SessionOutcome:
    """Judge every session of scores (n, d) that are named (n,), its responses in their order.

    Raises CalibrationError when no sessions are named.
    """
    assert promise.sessions is not None
    if sessions is None:
        raise CalibrationError("this promise is for sessions: say which session each response belongs to")
    outcome = SessionOutcome([], [], [], [], [], [])
    for rows in rows_by_session(sessions):
        for part in promise.sessions.cut([np.asarray(scores[rows], np.float64)]):
            progress = promise.sessions.start()
            judged = promise.judge(part, sessions=[progress] * len(part))
            outcome.severities.append(progress.severity)
            outcome.pvalues.append(min(judged.pvalues))
            outcome.first.append(next((t for t, s in enumerate(judged.severities) if s is not None), None))
            outcome.lengths.append(len(part))
            outcome.highest.append(max(judged.joint))
            outcome.steps.append(judged.severities)
    return outcome
