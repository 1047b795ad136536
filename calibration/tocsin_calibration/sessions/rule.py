"""How a session is judged: what is compared with the threshold at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.sessions.bands import Band
from tocsin_calibration.sessions.windows import Running, Window

Float64 = NDArray[np.float64]
Style = Literal["max", "band", "step"]


@dataclass(frozen=True)
class SessionRule:
    """A window, and the style of the threshold over it.

    `max`: one threshold for all steps, from each safe session's largest windowed score. `band`: a threshold that
    follows the usual course (see `bands`). Both promise that at most alpha of safe sessions alarm at any step. `step`:
    each step has a threshold of its own, from the sessions that reached it, and promises that at most alpha alarm at
    that step.

    `every`: sessions that never end are promised for in stretches of so many steps, each judged as a session.
    """

    window: Window = Window()
    style: Style = "max"
    every: int | None = None
    band: Band | None = None

    def __post_init__(self) -> None:
        if self.style not in get_args(Style):
            raise CalibrationError(f"the style of a session's threshold is max, band or step, not '{self.style}'")
        if self.every is not None and self.every < 1:
            raise CalibrationError(f"a stretch has at least one step, not {self.every}")

    def cut(self, sessions: Sequence[Float64]) -> list[Float64]:
        """Sessions (T_i, ...) cut into stretches of `every` steps; a last, shorter one is left out."""
        if self.every is None:
            return list(sessions)
        size = self.every
        return [s[at : at + size] for s in sessions for at in range(0, len(s) - size + 1, size)]

    def course(self, joint: Float64) -> Float64:
        """What is compared with the threshold at each step (T,), from one session's joint scores (T,)."""
        windowed = self.window.rolling(joint)
        return windowed if self.band is None else self.band.beyond(windowed)

    def start(self) -> Progress:
        """A session's progress, before its first response."""
        return Progress(self)

    def resume(self, last: Sequence[float], step: int, severity: str | None) -> Progress:
        """A session's progress after `step` responses of its stretch, of which these joint scores were the last, and
        that severity the worst so far.
        """
        progress = Progress(self)
        progress.step, progress.severity = step, severity
        for score in last:
            progress._running.push(score)
        return progress


class Progress:
    """How far one session has come: its window, its step, and the worst that was said of it."""

    __slots__ = ("_rule", "_running", "ended", "severity", "step")

    def __init__(self, rule: SessionRule) -> None:
        self._rule = rule
        self._running = Running(rule.window)
        self.step = 0  # responses so far, of the present stretch
        self.severity: str | None = None  # of the present stretch
        self.ended: list[str | None] = []  # stretches that ended, each with its worst severity, until somebody counts

    def push(self, joint: float) -> float:
        """Take a response's joint score in; what is compared with the threshold now."""
        rule = self._rule
        if rule.every is not None and self.step == rule.every:
            self.ended.append(self.severity)
            self._running, self.step, self.severity = Running(rule.window), 0, None
        value = self._running.push(joint)
        if rule.band is not None:
            at = min(self.step, len(rule.band.centre) - 1)
            value = (value - float(rule.band.centre[at])) / float(rule.band.spread[at])
        self.step += 1
        return value
