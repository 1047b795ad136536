"""Rules that make alarms of scores: the published one, and the promise for whole rollouts, on the same scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.fiper.scores import NAMES
from tocsin_calibration import Promise, calibrate_sessions
from tocsin_calibration.sessions.rule import SessionRule, Style
from tocsin_calibration.sessions.windows import How, Window

Float = NDArray[np.float64]
Alarms = Callable[[Sequence[Float]], list[int | None]]  # scores (T_i, d) of rollouts -> their first alarms, from 0


class Rule(Protocol):
    """A rule that decides alarms, from the scores of safe rollouts and a level."""

    def calibrated(self, safe: Sequence[Float], alpha: float, seed: int) -> Alarms:
        """From scores (T_i, d) of safe rollouts."""
        ...


@dataclass(frozen=True)
class Promised:
    """The promise for whole rollouts: joint conformal calibration of these detectors, windowed, at one exact alpha."""

    detectors: tuple[str, ...]
    rule: str = "any"
    window: int = 1
    style: Style = "max"
    how: How = "mean"

    def promise(self, safe: Sequence[Float], alpha: float, seed: int) -> Promise:
        """As `tocsin calibrate --on-average` makes it: the published rules promise no more."""
        session = SessionRule(Window(self.window, self.how), self.style)
        return calibrate_sessions(
            [scores[:, self.columns] for scores in safe],
            {"alarm": alpha},
            session=session,
            rule=self.rule,
            seed=seed,
            on_average=True,
        )

    def calibrated(self, safe: Sequence[Float], alpha: float, seed: int) -> Alarms:
        return self.of(self.promise(safe, alpha, seed))

    def of(self, promise: Promise) -> Alarms:
        """Alarms by a promise that has been made."""
        threshold = promise.thresholds["alarm"]
        return lambda rollouts: [_first(course > threshold) for course in self.courses(promise, rollouts)]

    def courses(self, promise: Promise, rollouts: Sequence[Float]) -> list[Float]:
        """What is compared with the threshold, one array (T_i,) a rollout."""
        assert promise.sessions is not None
        joint = promise.joint(np.concatenate(rollouts)[:, self.columns])
        ends = np.cumsum([len(scores) for scores in rollouts])[:-1]
        return [promise.sessions.course(scores) for scores in np.split(joint, ends)]

    @property
    def columns(self) -> list[int]:
        """Where its detectors' scores stand."""
        return [NAMES.index(name) for name in self.detectors]

    def __str__(self) -> str:
        joined = {"any": " or ", "all": " and "}.get(self.rule, ", ").join(self.detectors)
        learnt = f" ({self.rule})" if self.rule not in ("any", "all") else ""
        window = "each query" if self.window == 1 else f"{self.how} of {self.window}"
        return f"{joined}{learnt}, {window}" + ("" if self.style == "max" else f", {self.style}")


@dataclass(frozen=True)
class Published:
    """FIPER as published: each score's windowed sum against a plain quantile of its own, and all must exceed it.

    `constant`: the quantile of safe rollouts' maxima; `step`: of their values at each step (beyond the last that two
    rollouts reached, as there).
    """

    detectors: tuple[str, ...]
    window: int
    style: Literal["constant", "step"] = "constant"

    def calibrated(self, safe: Sequence[Float], alpha: float, seed: int) -> Alarms:
        del seed
        window, columns = Window(self.window, "sum"), [NAMES.index(name) for name in self.detectors]

        def windowed(scores: Float) -> Float:
            return np.array([window.rolling(scores[:, column]) for column in columns])  # (d, T)

        courses = [windowed(course) for course in safe]
        if self.style == "constant":
            thresholds = np.quantile([course.max(axis=1) for course in courses], 1 - alpha, axis=0)[:, None]
        else:
            reached = sorted((course.shape[1] for course in courses), reverse=True)[1]
            steps = [[course[:, t] for course in courses if course.shape[1] > t] for t in range(reached)]
            thresholds = np.array([np.quantile(step, 1 - alpha, axis=0) for step in steps]).T

        def first(scores: Float) -> int | None:
            at = np.minimum(np.arange(len(scores)), thresholds.shape[1] - 1)
            return _first((windowed(scores) > thresholds[:, at]).all(axis=0))

        return lambda rollouts: [first(scores) for scores in rollouts]

    def __str__(self) -> str:
        return f"{' and '.join(self.detectors)}, sum of {self.window}, {self.style} quantile"


def _first(alarms: NDArray[np.bool_]) -> int | None:
    return int(np.argmax(alarms)) if alarms.any() else None
