"""What evidence is made of: rows, alarms and scores, counted where responses are judged, weighed where it is shown."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tocsin.judgement.sink import Scored
from tocsin.sinks.group_numbers import GroupNumbers
from tocsin_calibration import Promise
from tocsin_calibration.online.inputs import STRIDE
from tocsin_calibration.promise import OTHERS

POOLED: Final = OTHERS
WAITING_BYTES: Final = 1 << 18  # of signals that are looked at together: a look costs as much for few rows as for many


class Tally:
    """Counts of one model's responses, or of its sessions that ended where the promise is for those. Not safe between
    threads.

    `alarmed` is by group and severity, `of_group` how many rows were of a group with a promise of its own; `sequence`
    is each row's group and severity, with `in_order`. In the order of rows, `groups` are each row's, where the promise
    has groups (`numbers`), and with `scores`, `joint` are nonconformity scores, `by_detector` detectors' scores batch
    by batch, `versions` runs of one version of the model; `inputs` of every STRIDE-th row what its signals show of the
    input, where the bundle watches that.
    """

    def __init__(self, promise: Promise, numbers: GroupNumbers, *, in_order: bool, scores: bool) -> None:
        self._promise, self._numbers = promise, numbers
        self._in_order, self._scores = in_order, scores
        self._watched = promise.inputs if scores else None
        self._input_names = () if self._watched is None else self._watched.signals
        self._inputs_shape = () if self._watched is None else self._watched.centre.shape
        self.until_next = 0  # rows before the next one of which inputs are taken
        self.clear()

    def clear(self) -> None:
        """Nothing is counted."""
        self.rows = 0
        self.alarmed: dict[tuple[str, str], int] = {}
        self._of_group: dict[str, int] = {}
        self._counted = 0  # rows of `groups` that are in `_of_group`
        self.joint: list[float] = []
        self.by_detector: list[NDArray[np.float32]] = []
        self.versions: list[tuple[str, int]] = []
        self.groups: list[str] = []
        self.sequence: list[tuple[str, str | None]] = []
        self.inputs: list[NDArray[np.float32]] = []
        self._signals: list[bytes] = []
        self._waiting_bytes = 0
        self.most_waiting_bytes = WAITING_BYTES

    def add(self, batch: Scored, rows: int, alarmed: bool, versions: Sequence[tuple[str, int]] | None = None) -> None:
        """Count a judged batch: so many rows, some of them `alarmed` or none. `versions`: runs of one version, where
        they are known.
        """
        if self._promise.sessions is not None:
            ended = batch.ended or ()
            self.rows += len(ended)
            self._count_all(ended, None)
            return
        self.rows += rows
        if self._scores:
            self.joint += batch.joint
            self.by_detector.append(batch.scores)
            self._count_versions(_versions_of(batch) if versions is None else versions)
            if self._watched is not None:
                self._take_inputs(batch, rows)
        if batch.groups is not None:
            self.groups += batch.groups
        if alarmed or self._in_order:
            severities = [s for call in batch.calls for s in (call.verdict.severities if call.verdict else ())]
            self._count_all(severities, batch.groups)

    @property
    def of_group(self) -> dict[str, int]:
        """How many rows were of each group that has a promise of its own. All that came since the last time is counted
        at once, which costs a fraction of counting batch by batch.
        """
        if self._counted < len(self.groups):
            self.numbered()
        return self._of_group

    def numbered(self) -> NDArray[np.signedinteger]:
        """The numbers (m,) of `groups`, of which `of_group` has all then."""
        numbers = self._numbers.of(self.groups)
        for group, rows in self._numbers.rows(numbers[self._counted :]).items():
            self._of_group[group] = self._of_group.get(group, 0) + rows
        self._counted = len(numbers)
        return numbers

    def merge(self, other: Tally) -> None:
        """Count what another has counted."""
        self.rows += other.rows
        self.joint += other.joint
        self.by_detector += other.by_detector
        self.versions += other.versions
        self.sequence += other.sequence
        self.inputs += other.projected()
        for key, count in other.alarmed.items():
            self.alarmed[key] = self.alarmed.get(key, 0) + count
        of_group = self.of_group
        for group, count in other.of_group.items():
            of_group[group] = of_group.get(group, 0) + count
        self.groups += other.groups
        self._counted = len(self.groups)

    def facts(self) -> dict[str, Any]:
        """The counts as plain data."""
        return {
            "rows": self.rows,
            "alarmed": [[*key, count] for key, count in self.alarmed.items()],
            "of_group": self.of_group,
            "joint": self.joint,
            "by_detector": b64encode(b"".join(scores.tobytes() for scores in self.by_detector)).decode(),
            "inputs": b64encode(b"".join(features.tobytes() for features in self.projected())).decode(),
            "versions": self.versions,
            "groups": self.groups if self._scores else [],
            "sequence": self.sequence,
        }

    def read(self, facts: dict[str, Any]) -> None:
        """Count what `facts` of another say."""
        other = Tally(self._promise, self._numbers, in_order=self._in_order, scores=self._scores)
        other.rows = facts["rows"]
        other.alarmed = {(group, severity): count for group, severity, count in facts["alarmed"]}
        other._of_group, other.joint = facts["of_group"], facts["joint"]
        scores = np.frombuffer(b64decode(facts.get("by_detector", "")), np.float32)
        other.by_detector = [scores.reshape(-1, len(self._promise.detectors))] if len(scores) else []
        shown = np.frombuffer(b64decode(facts.get("inputs", "")), np.float32)
        if len(shown) and self._watched is not None:
            other.inputs = [shown.reshape(-1, self._watched.rows.shape[1])]
        other.versions = [(version, rows) for version, rows in facts.get("versions", ())]
        other.groups = facts.get("groups", [])
        other._counted = len(other.groups)
        other.sequence = [(group, severity) for group, severity in facts["sequence"]]
        self.merge(other)

    def projected(self) -> list[NDArray[np.float32]]:
        """`inputs`, with those in them that waited."""
        if self._signals and self._watched is not None:
            signals = np.frombuffer(b"".join(self._signals), np.float32).reshape(-1, *self._inputs_shape)
            if not np.isfinite(signals).all():
                signals = signals[np.isfinite(signals).all(axis=1)]
            if len(signals):
                self.inputs.append(self._watched.features(signals).astype(np.float32))
            self._signals.clear()
            self._waiting_bytes = 0
        return self.inputs

    def _take_inputs(self, batch: Scored, rows: int) -> None:
        """Take every STRIDE-th row's signals, whatever they are, but where they are of another width."""
        start = self.until_next
        self.until_next = start - rows if start >= rows else (start - rows) % STRIDE
        if start >= rows:
            return
        try:
            of_batch = batch.signals()
            if len(self._input_names) == 1:
                signals = of_batch[self._input_names[0]][start:rows:STRIDE]
            else:
                signals = np.hstack([of_batch[name][start:rows:STRIDE] for name in self._input_names])
        except KeyError:
            return
        if signals.shape[1:] == self._inputs_shape:
            content = signals.tobytes()  # which joins many times as quickly as arrays do
            self._signals.append(content)
            self._waiting_bytes += len(content)
            if self._waiting_bytes >= self.most_waiting_bytes:
                self.projected()

    def _count_versions(self, runs: Iterable[tuple[str, int]]) -> None:
        for version, rows in runs:
            if self.versions and self.versions[-1][0] == version:
                self.versions[-1] = version, self.versions[-1][1] + rows
            else:
                self.versions.append((version, rows))

    def _count_all(self, severities: Sequence[str | None], groups: Sequence[str] | None) -> None:
        """Count alarms by group and severity."""
        promised = self._promise.groups
        for at, severity in enumerate(severities):
            if severity is None and not self._in_order:
                continue
            group = POOLED if groups is None or groups[at] not in promised else groups[at]
            if severity is not None:
                self.alarmed[group, severity] = self.alarmed.get((group, severity), 0) + 1
            if self._in_order:
                self.sequence.append((group, severity))


def _versions_of(batch: Scored) -> Iterator[tuple[str, int]]:
    """The version of each call, and its rows."""
    for call in batch.calls:
        verdict = call.verdict
        assert verdict is not None
        yield verdict.version, len(verdict.pvalues)
