"""Evidence while traffic flows: more alarms than promised, far fewer than expected, or scores that have drifted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import log
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from tocsin.judgement.sink import Scored
from tocsin.sinks.causes import Cause, Causes
from tocsin.sinks.group_numbers import GroupNumbers
from tocsin.sinks.tally import POOLED, Tally
from tocsin_calibration import DriftWatch, Promise, ShiryaevRoberts, Watch, promise_test, quiet_test
from tocsin_calibration.online.alarm_rate import change_test
from tocsin_calibration.online.changes import ChangePoints, ChangeTime
from tocsin_calibration.online.inputs import InputsTest
from tocsin_calibration.thresholds.limits import Limits

FOLD_ROWS = 1_024  # rows that wait before they are counted: most of a step's cost does not depend on their number
MOST_FOLDED = 2  # times as many where groups are watched, each of which costs as much for few rows as for many
SENT_FOLD_ROWS = 1 << 20  # the same where another process comes for them: only when it does not come any more
GROUPS = 64  # watched by themselves, the largest of calibration: a scrape computes the evidence of each


class GroupEvidence(NamedTuple):
    """One group with a promise of its own ("": all others together): responses of this process and its workers, alarms
    at each severity or a graver one, and the log of the evidence that its promise is exceeded, its share of the level
    taken off.
    """

    name: str
    responses: int
    alarms: dict[str, int]
    log_evalues: dict[str, float]


class Evidence:
    """Watches of one model. Not safe between threads. Counts of replicas can be added: then evidence is that of all.

    One watch a severity and group, of the largest groups, and one of all responses in no group with a promise of its
    own, where there is a promise for these; of G watches each is trusted with 1/G of the level, so that
    the largest exceeds 1/delta with probability at most delta. `run_length`: e-detectors instead of watches, whose mean
    does so once in 1/delta responses on average at most. Where the promise is for sessions, what is counted is sessions
    that ended. Inputs are watched where the bundle keeps some of calibration's (`InputsTest`), those of this process
    alone. `fixed` tells that alarms come from the promise's own thresholds, without which there is nothing to hold
    them to. Drift is watched where rows are exchangeable with the calibration scores one by one (see
    `Promise.watches_drift`), and there the parts of the traffic are watched by themselves (`Causes`). `seed` is that of
    the numbers that break the ties of new scores, None for one that no other process has. `clock` gives the Unix time
    at which responses are counted, to say when a change began. `sends_counts`: another process takes the tally and
    weighs it, as it does with workers."""

    def __init__(
        self,
        promise: Promise,
        restart: int,
        *,
        fixed: bool,
        run_length: bool = False,
        seed: int | None = None,
        clock: Callable[[], float] = time.time,
        sends_counts: bool = False,
    ) -> None:
        self._promise, self._clock = promise, clock
        self._fold_at = SENT_FOLD_ROWS if sends_counts else FOLD_ROWS * min(MOST_FOLDED, 1 + len(promise.groups) // 4)
        by_size = sorted(promise.parts.items(), key=lambda part: -part[1].n)
        largest = [group for group, _ in by_size if group != POOLED][:GROUPS]
        by_group = {group: limits for group, limits in by_size if group == POOLED or group in largest}
        fixed_groups = by_group if fixed and not promise.is_per_step else {}
        named_groups = by_group if promise.groups and promise.sessions is None else {}
        self._by_group = {group: [0] * (1 + len(promise.alphas)) for group in named_groups}  # responses, alarms
        self._watches = {
            group: {name: _watch(limits, name, restart) for name in limits.laws}
            for group, limits in fixed_groups.items()
        }
        self._drift: DriftWatch | None = None
        self._causes: Causes | None = None
        if promise.watches_drift:
            self._drift = DriftWatch(
                promise.nonconformity, every=restart, auxiliary=promise.auxiliary, seed=seed, began=clock()
            )
            self._causes = Causes(promise, restart, clock(), seed)
        self._inputs = None
        if promise.watches_drift and promise.inputs is not None:
            self._inputs = InputsTest(promise.inputs, seed)
        self._alarm_changes = ChangePoints(2, clock(), step=1) if self._watches and self._drift is None else None
        self._graver = {
            name: {other for other, level in promise.alphas.items() if level <= alpha}
            for name, alpha in promise.alphas.items()
        }
        self._detectors = {
            group: {name: ShiryaevRoberts.of(law) for name, law in limits.laws.items()}
            for group, limits in (fixed_groups if run_length else {}).items()
        }
        self._parts = tuple(dict.fromkeys((*self._watches, *self._by_group)))
        self._no_alarms = [0] * len(self._graver)
        self._numbers = GroupNumbers(promise.groups)
        self._tally = self._empty_tally()

    @property
    def tally(self) -> Tally:
        """What has been counted since evidence was last computed."""
        return self._tally

    def add(self, batch: Scored, rows: int, alarmed: bool, versions: Sequence[tuple[str, int]] | None = None) -> None:
        """Add a judged batch of so many rows; `alarmed`: some of them alarmed; `versions`: runs of rows of one version,
        in their order, where they are known.
        """
        self._tally.add(batch, rows, alarmed, versions)
        if self._tally.rows >= self._fold_at:
            self._fold()

    def read(self, facts: dict[str, Any]) -> None:
        """Add the tally of another process."""
        self._tally.read(facts)
        if self._tally.rows >= self._fold_at:
            self._fold()

    def counts(self) -> list[int]:
        """The counts of all watches in one list. The same bundle gives the same positions."""
        self._fold()
        return [count for watch in self._every() for count in watch.counts]

    def add_counts(self, more: Sequence[int]) -> None:
        """Add what others have counted of the same promise, in the positions of `counts`."""
        counts = iter(more)
        for watch in self._fixed():
            watch.add([next(counts) for _ in watch.counts])
        if self._drift is not None:
            self._drift.add_counts([next(counts) for _ in self._drift.watch.counts], self._clock())

    def counts_by_cause(self) -> dict[str, list[int]]:
        """The counts of the watches of the traffic's parts, by name; empty where none is watched."""
        self._fold()
        return {} if self._causes is None else self._causes.counts()

    def add_counts_by_cause(self, name: str, more: Sequence[int]) -> None:
        """Add what others have counted under a name of `counts_by_cause`."""
        if self._causes is not None:
            self._causes.add_counts(name, more, self._clock())

    def promise(self) -> dict[str, float]:
        """The log of the evidence that the promise of each severity is exceeded; empty where there is no promise to
        test.
        """
        self._fold()
        if not self._watches:
            return {}
        if self._detectors:
            return {
                name: log(max(fmean(detectors[name].value for detectors in self._detectors.values()), 1e-300))
                for name in self._graver
            }
        share = log(len(self._watches))
        return {
            name: max(detectors[name].log_evidence() for detectors in self._watches.values()) - share
            for name in self._graver
        }

    def by_group(self) -> list[GroupEvidence]:
        """Each group that is watched by itself, the largest of calibration first; empty where there are no groups. What
        exceeds log(1/delta) breaks its promise, for all groups together with probability at most delta wrongly.
        """
        self._fold()
        share, result = log(max(1, len(self._watches))), []
        for group, (responses, *alarms) in self._by_group.items():
            if group in self._detectors:
                logs = {name: log(max(d.value, 1e-300)) for name, d in self._detectors[group].items()}
            else:
                logs = {name: watch.log_evidence() for name, watch in self._watches.get(group, {}).items()}
            adjusted = {name: logs[name] - share for name in self._graver if name in logs}
            by_severity = dict(zip(self._graver, alarms, strict=True))
            result.append(GroupEvidence(group, responses, by_severity, adjusted))
        return result

    def quiet(self) -> dict[str, float]:
        """log of the evidence that far fewer responses alarm than calibration explains, by severity; without those of
        which no calibration score lies above the threshold.
        """
        self._fold()
        share, result = log(max(1, len(self._watches))), {}
        for name in self._graver:
            logs = [watches[name].log_quiet_evidence() for watches in self._watches.values()]
            if known_logs := [value for value in logs if value is not None]:
                result[name] = max(known_logs) - share
        return result

    def drift(self) -> float | None:
        """The log of the evidence that scores have drifted since calibration, None where drift is not watched."""
        self._fold()
        return None if self._drift is None else self._drift.log_evidence()

    def inputs(self) -> float | None:
        """log of the evidence that inputs have changed since calibration, None where they are not watched."""
        self._fold()
        return None if self._inputs is None else self._inputs.log_evidence()

    def causes(self) -> list[Cause]:
        """The parts of the traffic, in descending order of the evidence that they have changed; empty where none is
        watched.
        """
        self._fold()
        return [] if self._causes is None else self._causes.evidence()

    def looked_into(self, cause: Cause) -> Cause:
        """A cause of `causes` with the time at which its change probably began."""
        return cause if self._causes is None else self._causes.looked_into(cause)

    def change(self) -> ChangeTime | None:
        """Where the traffic as a whole probably changed; None where it did not, or nothing is watched."""
        self._fold()
        if self._drift is not None:
            return self._drift.change()
        if self._alarm_changes is None:
            return None
        return self._alarm_changes.estimate(change_test(list(self._promise.laws.values())[-1]))

    def _every(self) -> Iterator[Watch]:
        yield from self._fixed()
        if self._drift is not None:
            yield self._drift.watch

    def _fixed(self) -> Iterator[Watch]:
        for watches in self._watches.values():
            yield from watches.values()

    def _empty_tally(self) -> Tally:
        in_order, scores = bool(self._detectors), self._drift is not None
        return Tally(self._promise, self._numbers, in_order=in_order, scores=scores)

    def _fold(self) -> None:
        """Add what was tallied to every test that runs."""
        tally = self._tally
        self._tally = self._empty_tally()
        self._tally.until_next = tally.until_next
        if self._inputs is not None:
            for features in tally.projected():
                self._inputs.add(features.astype(np.float64))
        joint = np.asarray(tally.joint, np.float64)
        if tally.joint and self._drift is not None:
            self._drift.add(joint, self._clock())
        if tally.by_detector and self._causes is not None:
            groups = tally.numbered() if tally.groups else None
            self._causes.add(np.concatenate(tally.by_detector), joint, tally.versions, groups, self._clock())
        if tally.rows and self._alarm_changes is not None:
            alarms = sum(tally.alarmed.values())
            self._alarm_changes.add_counts((tally.rows - alarms, alarms), self._clock())
        for group, severity in tally.sequence:
            for name, detector in self._detectors.get(group, {}).items():
                detector.add(severity in self._graver[name])
        pooled = tally.rows - sum(tally.of_group.values())
        alarmed_groups = {group for group, _ in tally.alarmed}
        for group in self._parts:
            responses = pooled if group == POOLED else tally.of_group.get(group, 0)
            if not responses:
                continue
            counts = self._no_alarms
            if group in alarmed_groups:
                counts = [
                    sum(tally.alarmed.get((group, other), 0) for other in graver) for graver in self._graver.values()
                ]
            if group in self._by_group:
                more = zip(self._by_group[group], (responses, *counts), strict=True)
                self._by_group[group] = [before + new for before, new in more]
            watches = self._watches.get(group, {})
            for name, count in zip(self._graver, counts, strict=True):
                if name in watches:
                    watches[name].add((count, responses - count))


def _watch(limits: Limits, severity: str, restart: int) -> Watch:
    law = limits.laws[severity]
    approximate = limits.weighted is not None or limits.clustered is not None
    quiet = None if approximate else quiet_test(law, limits.above[severity])
    return Watch(promise_test(law, learns=limits.exact[severity]), restart, quiet)
