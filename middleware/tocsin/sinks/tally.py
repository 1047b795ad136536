"""What evidence is made of: rows, alarms and scores, counted where responses are judged, weighed where it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tocsin.judgement.sink import Scored
from tocsin_calibration import Promise
from tocsin_calibration.promise import OTHERS

POOLED = OTHERS


class Tally:
    """Counts of one model's responses, or of its sessions that ended where the promise is for those. Not safe between
    threads.

    `alarmed` is by group and severity, `of_group` how many rows were of a group with a promise of its own; `joint` are
    nonconformity scores, with `scores`; `sequence` is each row's group and severity, with `in_order`.
    """

    def __init__(self, promise: Promise, *, in_order: bool, scores: bool) -> None:
        self._promise = promise
        self._in_order, self._scores = in_order, scores
        self.clear()

    def clear(self) -> None:
        """Nothing is counted."""
        self.rows = 0
        self.alarmed: dict[tuple[str, str], int] = {}
        self.of_group: dict[str, int] = {}
        self.joint: list[float] = []
        self.sequence: list[tuple[str, str | None]] = []

    def add(self, batch: Scored, rows: int, alarmed: bool) -> None:
        """Count a judged batch: so many rows, some of them `alarmed` or none."""
        if self._promise.sessions is not None:
            ended = batch.ended or ()
            self.rows += len(ended)
            self._count_all(ended, None)
            return
        self.rows += rows
        if self._scores:
            self.joint += batch.joint
        if alarmed or batch.groups is not None or self._in_order:
            severities = [s for call in batch.calls for s in (call.verdict.severities if call.verdict else ())]
            self._count_all(severities, batch.groups)

    def merge(self, other: Tally) -> None:
        """Count what another has counted."""
        self.rows += other.rows
        self.joint += other.joint
        self.sequence += other.sequence
        for key, count in other.alarmed.items():
            self.alarmed[key] = self.alarmed.get(key, 0) + count
        for group, count in other.of_group.items():
            self.of_group[group] = self.of_group.get(group, 0) + count

    def facts(self) -> dict[str, Any]:
        """The counts as plain data."""
        return {
            "rows": self.rows,
            "alarmed": [[*key, count] for key, count in self.alarmed.items()],
            "of_group": self.of_group,
            "joint": self.joint,
            "sequence": self.sequence,
        }

    def read(self, facts: dict[str, Any]) -> None:
        """Count what `facts` of another say."""
        other = Tally(self._promise, in_order=self._in_order, scores=self._scores)
        other.rows = facts["rows"]
        other.alarmed = {(group, severity): count for group, severity, count in facts["alarmed"]}
        other.of_group, other.joint = facts["of_group"], facts["joint"]
        other.sequence = [(group, severity) for group, severity in facts["sequence"]]
        self.merge(other)

    def _count_all(self, severities: Sequence[str | None], groups: Sequence[str] | None) -> None:
        for at, severity in enumerate(severities):
            group = POOLED if groups is None or groups[at] not in self._promise.groups else groups[at]
            if group != POOLED:
                self.of_group[group] = self.of_group.get(group, 0) + 1
            if severity is not None:
                self.alarmed[group, severity] = self.alarmed.get((group, severity), 0) + 1
            if self._in_order:
                self.sequence.append((group, severity))
