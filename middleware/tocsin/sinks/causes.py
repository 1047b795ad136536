"""Which part of the traffic has changed: evidence by detector, by group and by version of the model, beside the joint.

Each detector's scores are compared with those of calibration, each group's nonconformity with that group's own, each
version's with all of it, by the test of `tocsin_calibration.online.shift`. What is shown is adjusted for how many
are watched (`tocsin_calibration.online.naming`), so that one limit names causes, wrongly with probability at most
delta, ever. Memory and labels are bounded: GROUPS groups, VERSIONS versions, the notes of each in its log of responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import pi
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.sinks.group_numbers import GroupNumbers
from tocsin_calibration import DriftWatch, Promise
from tocsin_calibration.online.changes import ChangeTime
from tocsin_calibration.online.naming import adjusted_log_evalues
from tocsin_calibration.online.watch import log_evidences
from tocsin_calibration.promise import OTHERS
from tocsin_calibration.thresholds.ordered import Ordered

GROUPS = 64  # of calibration, the largest
VERSIONS = 8  # the first that come; further ones are one together, `other`
OTHER = "other"
REWEIGH_FRACTION = 128  # evidence is weighed again when there are more responses by one in so many
MAX_VERSION_LENGTH = 100  # characters of a version: a model server may say anything
GROUP_ROWS = 512  # rows of a group that wait before they are counted: few cost nearly as much as many

Kind = Literal["detector", "group", "version"]
Key = tuple[Kind, str]


class Cause(NamedTuple):
    """A part of the traffic, and the evidence that it has changed: the logarithm of an e-value, adjusted for
    multiplicity, to compare with log(1/delta).

    `change` is where the change probably began, counted in responses of that part; None where it was not computed.
    """

    kind: Kind
    name: str
    log_evalue: float
    change: ChangeTime | None = None


class Causes:
    """Watches of every part of one model's traffic. Not safe between threads.

    Only for promises whose `watches_drift`. `began` is the Unix time from which responses come.
    """

    def __init__(self, promise: Promise, restart: int, began: float, seed: int | None = None) -> None:
        self._restart, self._auxiliary, self._seed, self._began = restart, promise.auxiliary, seed, began
        self._when = began  # of the last rows
        self._nonconformity = promise.nonconformity
        by_size = sorted(promise.groups.items(), key=lambda group: -group[1].n)[:GROUPS]
        parts = {name: limits.ordered for name, limits in by_size}
        if parts and promise.others is not None:
            parts[OTHERS] = promise.others.ordered
        self._watches: dict[Key, DriftWatch] = {}
        for column, name in enumerate(promise.detectors):
            self._watches["detector", name] = self._watch(Ordered.of(promise.reference[:, column]), column + 1)
        for number, (name, ordered) in enumerate(parts.items()):
            self._watches["group", name] = self._watch(ordered, -1 - number)
        self._detectors, self._groups = list(promise.detectors), list(parts)
        self._waiting: dict[str, list[NDArray[np.float64]]] = {name: [] for name in parts}
        self._waiting_rows = dict.fromkeys(parts, 0)
        # By the number of each promised group the number of its watch, -1 where it has none. A group without a promise
        # of its own, whose number is the last one, is of the others.
        watched = GroupNumbers(parts)
        self._watch_of_group = watched.of([*promise.groups, OTHERS])
        self._versions: list[str] = []
        self._kinds = 3 if parts else 2
        self._rows = 0
        self._weighed: tuple[int, list[Cause]] | None = None  # rows then, and what they showed

    def add(
        self,
        scores: NDArray[np.floating],
        joint: NDArray[np.float64],
        versions: Sequence[tuple[str, int]],
        groups: NDArray[np.signedinteger] | None,
        when: float,
    ) -> None:
        """Add rows in their order: detectors' scores (m, d), nonconformity (m,), runs of versions, and the numbers of
        their groups (m,) among those of the promise (`GroupNumbers`).
        """
        self._rows += len(scores)
        self._when = when
        for name, column in zip(self._detectors, scores.T, strict=True):
            self._watches["detector", name].add(column, when)
        if self._groups and groups is not None:
            self._add_groups(joint, groups, when)
        start = 0
        by_version: dict[str, list[slice]] = {}
        for version, rows in versions:
            by_version.setdefault(self._slot(version), []).append(slice(start, start + rows))
            start += rows
        for version, parts in by_version.items():
            self._watches["version", version].add(np.concatenate([joint[part] for part in parts]), when)

    def _add_groups(self, joint: NDArray[np.float64], groups: NDArray[np.signedinteger], when: float) -> None:
        """Add rows (m,) to those that wait for the watches of their groups, each group's in their order."""
        numbers = self._watch_of_group.take(groups, mode="wrap")
        ordered = joint.take(np.argsort(numbers, kind="stable"))
        ends = np.cumsum(np.bincount(numbers + 1, minlength=len(self._groups) + 1)).tolist()
        for name, start, end in zip(self._groups, ends[:-1], ends[1:], strict=True):
            if end > start:
                self._waiting[name].append(ordered[start:end])
                self._waiting_rows[name] += end - start
                if self._waiting_rows[name] >= GROUP_ROWS:
                    self._count_waiting(name, when)

    def _count_waiting(self, name: str, when: float) -> None:
        """Give a group's watch the rows that wait."""
        self._watches["group", name].add(np.concatenate(self._waiting[name]), when)
        self._waiting[name].clear()
        self._waiting_rows[name] = 0

    def _count_all_waiting(self) -> None:
        """Give every group's watch the rows that wait, so that it has all that have come."""
        for name, rows in self._waiting_rows.items():
            if rows:
                self._count_waiting(name, self._when)

    def evidence(self) -> list[Cause]:
        """Every part with its evidence, the largest first; versions only where there are several.

        After many responses a few more change little, so the last result is returned, which stays valid.
        """
        if not self._rows:
            return [Cause(*key, 0.0) for key in self._watches]
        if self._weighed is not None and self._rows - self._weighed[0] <= self._rows // REWEIGH_FRACTION:
            return self._weighed[1]
        self._count_all_waiting()
        logs = dict(zip(self._watches, log_evidences([watch.watch for watch in self._watches.values()]), strict=True))
        weights = {key: self._weight(key) for key in logs}
        adjusted = adjusted_log_evalues(logs, weights, to_come=1 - sum(weights.values()))
        several = len(self._versions) > 1
        causes = [Cause(*key, value) for key, value in adjusted.items() if several or key[0] != "version"]
        self._weighed = self._rows, causes
        return causes

    def looked_into(self, cause: Cause) -> Cause:
        """A cause with the response at which its change probably began."""
        self._count_all_waiting()
        return cause._replace(change=self._watches[cause.kind, cause.name].change())

    def counts(self) -> dict[str, list[int]]:
        """What the watches have counted, to be added to the counts of replicas, by a name for each watch."""
        self._count_all_waiting()
        fixed = [key for key in self._watches if key[0] != "version"]
        counts = {"causes": [count for key in fixed for count in self._watches[key].watch.counts]}
        return counts | {_name_of(version): self._counts("version", version) for version in self._versions}

    def add_counts(self, name: str, more: Sequence[int], when: float) -> None:
        """Add what other replicas have counted under a name of `counts`."""
        self._weighed = None
        self._count_all_waiting()  # before those whose order is not known
        if name == "causes":
            places = iter(more)
            for (kind, _), watch in self._watches.items():
                if kind != "version":
                    watch.add_counts([next(places) for _ in watch.watch.counts], when)
            return
        for version in self._versions:
            if _name_of(version) == name:
                self._watches["version", version].add_counts(more, when)

    def _counts(self, kind: Kind, name: str) -> list[int]:
        return list(self._watches[kind, name].watch.counts)

    def _watch(self, calibration: Ordered, number: int) -> DriftWatch:
        """A watch. `number` seeds the tie-breaking of its calibration set, the same in every replica."""
        seed = None if self._seed is None else [self._seed, len(self._watches)]
        auxiliary = [self._auxiliary, abs(number), int(number < 0)]
        return DriftWatch(
            calibration, every=self._restart, auxiliary=auxiliary, seed=seed, directed=True, began=self._began
        )

    def _slot(self, version: str) -> str:
        version = version[:MAX_VERSION_LENGTH]
        if version not in self._versions:
            if len(self._versions) >= VERSIONS:
                version = OTHER
            if version not in self._versions:
                self._versions.append(version)
                self._watches["version", version] = self._watch(self._nonconformity, 0)
        return version

    def _weight(self, key: Key) -> float:
        """The kinds share the weight equally, and so do detectors and groups within their kind. Versions get decreasing
        shares, as more may come.
        """
        kind, name = key
        if kind == "version":
            return 6 / (pi * (self._versions.index(name) + 1)) ** 2 / self._kinds
        return 1 / (len(self._detectors if kind == "detector" else self._groups) * self._kinds)


def _name_of(version: str) -> str:
    return "version " + blake2b(version.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
