"""Decides which alarms become events of their own, and which are summed."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tocsin.names import bounded

MAX_SESSIONS = 10_000  # remembered
MAX_VERSIONS = 50  # of a model, in one sum


@dataclass
class Sum:
    """The alarms of one model that were summed in one window."""

    model: str
    began: float
    severities: Counter[str] = field(default_factory=Counter)
    versions: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    lowest: float = 1.0
    worst: dict[str, Any] = field(default_factory=dict)  # what is to be told of the alarm with the lowest p-value
    detectors: Counter[str] = field(default_factory=Counter)
    admitted: int = 0


class AlarmThrottle:
    """Decides alarm by alarm. Not safe between threads; times are seconds of one clock.

    After its first alarm, a session's alarms are summed for `repeat` seconds unless they are more severe. Of all
    others, `burst` of each model become events in `window` seconds.
    """

    def __init__(self, window: float, burst: int, repeat: float) -> None:
        self._window, self._burst, self._repeat = window, burst, repeat
        self._sums: dict[str, Sum] = {}
        self._sessions: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def admits(self, model: str, session: str, grade: int, now: float) -> bool:
        """Whether an alarm becomes an event of its own. `grade` is 0 for the most severe severity."""
        session, window = bounded(session), self._sums.get(model)
        if window is None:
            window = self._sums[model] = Sum(model, now)
        if session:
            since, worst = self._sessions.get((model, session), (-1e18, 1 << 30))
            if now - since < self._repeat and grade >= worst:
                return False
        if window.admitted >= self._burst:
            return False
        if session:
            self._sessions[model, session] = now, grade
            self._sessions.move_to_end((model, session))
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        window.admitted += 1
        return True

    def add(
        self,
        model: str,
        session: str,
        severity: str,
        pvalue: float,
        detector: str,
        tell: Callable[[], dict[str, Any]],
        version: str = "",
    ) -> None:
        """Sum an alarm that was not admitted. `tell` makes its data, and is called where it is the worst so far."""
        summary = self._sums[model]
        summary.severities[severity] += 1
        if pvalue < summary.lowest or not summary.worst:
            summary.lowest, summary.worst = pvalue, tell()
        summary.detectors[detector] += 1
        if len(summary.versions) < MAX_VERSIONS:
            summary.versions.add(version)
        if session and len(summary.sessions) < MAX_SESSIONS:
            summary.sessions.add(bounded(session))

    def ended(self, now: float, *, all_of_them: bool = False) -> list[Sum]:
        """The windows that have ended and hold sums; each is returned once."""
        models = [model for model, summary in self._sums.items() if all_of_them or now - summary.began >= self._window]
        return [summary for summary in (self._sums.pop(model) for model in models) if summary.severities]
