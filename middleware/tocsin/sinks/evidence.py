"""Evidence while traffic flows: more alarms than promised, far fewer than expected, or scores that have drifted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log
from statistics import fmean
from typing import Any

from tocsin.judgement.sink import Scored
from tocsin.sinks.tally import POOLED, Tally
from tocsin_calibration import DriftWatch, Promise, ShiryaevRoberts, Watch, promise_test, quiet_test
from tocsin_calibration.thresholds.limits import Limits

FOLD = 256  # rows that wait before they are counted
GROUPS = 64  # watched by themselves, the largest of calibration: a scrape computes the evidence of each


class Evidence:
    """Watches of one model. Not safe between threads. Counts of replicas can be added: then evidence is that of all.

    One watch a severity and group, of the largest groups, and one of all responses in no group with a promise of its
    own, where there is a promise for these; of G watches each is trusted with 1/G of the level, so that
    the largest exceeds 1/delta with probability at most delta. `run_length`: e-detectors instead of watches, whose mean
    does so once in 1/delta responses on average at most. Where the promise is for sessions, what is counted is sessions
    that ended. `fixed` tells that alarms come from the promise's own thresholds, without which there is nothing to hold
    them to. Drift is watched where rows are exchangeable with the calibration scores one by one (see
    `Promise.watches_drift`). `seed` is that of the numbers that break the ties of new scores, None for one that no
    other process has."""

    def __init__(
        self, promise: Promise, restart: int, *, fixed: bool, run_length: bool = False, seed: int | None = None
    ) -> None:
        self._promise = promise
        by_size = sorted(promise.parts.items(), key=lambda part: -part[1].n)
        largest = [group for group, _ in by_size if group != POOLED][:GROUPS]
        by_group = {group: limits for group, limits in by_size if group == POOLED or group in largest}
        fixed_groups = by_group if fixed and not promise.is_per_step else {}
        self._watches = {
            group: {name: _watch(limits, name, restart) for name in limits.laws}
            for group, limits in fixed_groups.items()
        }
        self._drift = None
        if promise.watches_drift:
            self._drift = DriftWatch(promise.nonconformity, every=restart, auxiliary=promise.auxiliary, seed=seed)
        self._graver = {
            name: {other for other, level in promise.alphas.items() if level <= alpha}
            for name, alpha in promise.alphas.items()
        }
        self._detectors = {
            group: {name: ShiryaevRoberts.of(law) for name, law in limits.laws.items()}
            for group, limits in (fixed_groups if run_length else {}).items()
        }
        self._tally = Tally(promise, in_order=run_length, scores=self._drift is not None)

    @property
    def tally(self) -> Tally:
        """What has been counted and not been weighed yet."""
        return self._tally

    def add(self, batch: Scored, rows: int, alarmed: bool) -> None:
        """Take in a judged batch: so many rows, some of them `alarmed` or none."""
        self._tally.add(batch, rows, alarmed)
        if self._tally.rows >= FOLD:
            self._fold()

    def read(self, facts: dict[str, Any]) -> None:
        """Take in what the tally of another process says."""
        self._tally.read(facts)
        if self._tally.rows >= FOLD:
            self._fold()

    def counts(self) -> list[int]:
        """What every watch has counted, one after the other: the same bundle gives the same places."""
        self._fold()
        return [count for watch in self._every() for count in watch.counts]

    def add_counts(self, more: Sequence[int]) -> None:
        """Take in what others have counted of the same promise, in the places of `counts`."""
        counts = iter(more)
        for watch in self._every():
            watch.add([next(counts) for _ in watch.counts])

    def promise(self) -> dict[str, float]:
        """log of the evidence that the promise of each severity is exceeded; empty where there is none to hold to."""
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
        """log of the evidence that scores have drifted since calibration, None where it is not watched."""
        self._fold()
        return None if self._drift is None else self._drift.log_evidence()

    def _every(self) -> Iterator[Watch]:
        for watches in self._watches.values():
            yield from watches.values()
        if self._drift is not None:
            yield self._drift.watch

    def _fold(self) -> None:
        tally = self._tally
        self._tally = Tally(self._promise, in_order=bool(self._detectors), scores=self._drift is not None)
        if tally.joint and self._drift is not None:
            self._drift.add(tally.joint)
        for group, severity in tally.sequence:
            for name, detector in self._detectors.get(group, {}).items():
                detector.add(severity in self._graver[name])
        pooled = tally.rows - sum(tally.of_group.values())
        for group, watches in self._watches.items():
            responses = pooled if group == POOLED else tally.of_group.get(group, 0)
            if not responses:
                continue
            for name, watch in watches.items():
                alarms = sum(tally.alarmed.get((group, severity), 0) for severity in self._graver[name])
                watch.add((alarms, responses - alarms))


def _watch(limits: Limits, severity: str, restart: int) -> Watch:
    law = limits.laws[severity]
    approximate = limits.weighted is not None or limits.clustered is not None
    quiet = None if approximate else quiet_test(law, limits.above[severity])
    return Watch(promise_test(law, learns=limits.exact[severity]), restart, quiet)
