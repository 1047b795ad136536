"""Evidence against a promise while traffic flows: more alarms than promised, or scores that have drifted."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from tocsin_calibration import DriftWatch, Promise, Watch, promise_test

FOLD = 64  # rows that wait before they are counted
POOLED = ""  # the group of those that have no promise of their own


class Evidence:
    """Watches of one model. Not safe between threads.

    One watch a severity and group; their mean is again evidence that exceeds 1/delta with probability at most delta.
    Where the promise is for sessions, what is counted is sessions that ended. `fixed` tells that alarms come from the
    promise's own thresholds, without which there is nothing to hold them to. Drift is watched where rows are
    exchangeable with the calibration scores one by one: not in sessions, and not where the promise is for other
    traffic."""

    def __init__(self, promise: Promise, restart: int, *, fixed: bool) -> None:
        self._promise = promise
        by_group = {POOLED: promise.limits}
        if promise.sessions is None:
            by_group.update(promise.groups)
        kept = by_group if fixed and not (promise.sessions and promise.sessions.style == "step") else {}
        self._watches = {
            group: {name: Watch(promise_test(law), restart) for name, law in limits.laws.items()}
            for group, limits in kept.items()
        }
        exchangeable = promise.sessions is None and promise.limits.weighted is None
        self._drift = DriftWatch(promise.nonconformity, every=restart) if exchangeable else None
        self._graver = {
            name: {other for other, level in promise.alphas.items() if level <= alpha}
            for name, alpha in promise.alphas.items()
        }
        self._waiting: list[str | None] = []
        self._groups: list[str] = []
        self._joint: list[float] = []

    def add(
        self,
        severities: Sequence[str | None],
        groups: Sequence[str] | None,
        joint: Sequence[float],
        ended: Sequence[str | None] | None,
    ) -> None:
        """Take in a judged batch: each row's severity, group and nonconformity, or the sessions that ended."""
        if self._promise.sessions is not None:
            self._waiting += ended or ()
        else:
            self._waiting += severities
            if groups is not None:
                self._groups += groups
            if self._drift is not None:
                self._joint += joint
        if len(self._waiting) >= FOLD:
            self._fold()

    def promise(self) -> dict[str, float]:
        """log of the evidence that the promise of each severity is exceeded; empty where there is none to hold to."""
        self._fold()
        if not self._watches:
            return {}
        return {name: _log_mean([own[name].log_evidence() for own in self._watches.values()]) for name in self._graver}

    def drift(self) -> float | None:
        """log of the evidence that scores have drifted since calibration, None where it is not watched."""
        self._fold()
        return None if self._drift is None else self._drift.log_evidence()

    def _fold(self) -> None:
        waiting, self._waiting = self._waiting, []
        groups, self._groups = self._groups, []
        joint, self._joint = self._joint, []
        if joint and self._drift is not None:
            self._drift.add(joint)
        if not waiting or not self._watches:
            return
        if len(self._watches) == 1:
            self._count(POOLED, waiting)
            return
        parts: dict[str, list[str | None]] = {}
        for severity, group in zip(waiting, groups, strict=True):
            parts.setdefault(group if group in self._watches else POOLED, []).append(severity)
        for group, part in parts.items():
            self._count(group, part)

    def _count(self, group: str, severities: Sequence[str | None]) -> None:
        for name, watch in self._watches[group].items():
            graver = self._graver[name]
            alarms = sum(severity in graver for severity in severities)
            watch.add((alarms, len(severities) - alarms))


def _log_mean(logs: Sequence[float]) -> float:
    largest = max(logs)
    return largest + log(sum(exp(one - largest) for one in logs) / len(logs))
