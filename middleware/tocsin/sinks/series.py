"""The counts of one model, as integers in dictionaries."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from prometheus_client.samples import Exemplar

from tocsin.configuration.model import ModelConfig
from tocsin.judgement.call import Call
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.scoring import Scoring
from tocsin.judgement.sink import Scored
from tocsin.sinks.evidence import Evidence
from tocsin.sinks.families import P_BUCKETS, SECONDS_BUCKETS
from tocsin.sinks.histogram import Histogram
from tocsin.unscored import REASONS
from tocsin.verdict import Verdict

_COUNTERS: Final = ("responses", "alarms", "unscored", "sessions", "keyless", "actions", "shadows")
_HISTOGRAMS: Final = ("pvalue", "scoring")
KEYS: Final = "session", "group"  # what a call may leave unnamed
MAX_VERSION_LENGTH: Final = 100  # characters of a version: a model server may say anything
MAX_VERSIONS: Final = 50  # further versions of a model fold into `other`


class JudgedSeries:
    """Counts that a model has only with a bundle: the scores of each detector, and evidence on the promise."""

    def __init__(self, scoring: Scoring, config: ModelConfig, *, sends_counts: bool) -> None:
        promise = scoring.promise
        self.scores = Histogram(*(_score_buckets(column) for column in promise.reference.T))
        run_length, fixed = config.evidence == "run_length", scoring.judge.levels is None
        self.evidence = Evidence(promise, config.restart, fixed=fixed, run_length=run_length, sends_counts=sends_counts)


class ModelSeries:
    """The counts of one model; where `model` is None, those of calls without a known model, by these `methods`.
    `sends_counts`: another process takes the counts.
    """

    def __init__(self, model: GuardedModel | None, methods: Iterable[str] = (), *, sends_counts: bool = False) -> None:
        self.responses: dict[tuple[str, str, str], int] = defaultdict(int)  # version, method, decision
        self.alarms: dict[tuple[str, str], int] = defaultdict(int)  # version, severity
        self.alarm_traces: dict[tuple[str, str], Exemplar] = {}
        self.unscored: dict[str, int] = defaultdict(int)
        self.sessions: dict[str, int] = defaultdict(int)  # that ended, by worst severity or `none`
        self.keyless: dict[str, int] = defaultdict(int)  # calls without `session` or `group`
        self.actions: dict[str, int] = defaultdict(int)  # done in enforce
        self.shadows: dict[tuple[str, str], int] = defaultdict(int)  # candidate's severity, live severity
        self.pvalue = Histogram(P_BUCKETS, native=True)
        self.scoring = Histogram(SECONDS_BUCKETS, native=True)
        self.changes = 0  # how often something was counted, so that what has not changed is not shown anew
        self.judged: JudgedSeries | None = None
        self._severities: tuple[str, ...] = ()
        if model is not None:
            self._policy = model.policy
            if model.scoring is not None:
                self._severities = tuple(model.scoring.promise.alphas)
                self.judged = JudgedSeries(model.scoring, model.config, sends_counts=sends_counts)
        self._model = model
        self._methods = list(methods if model is None else model.served)
        self._versions: set[str] = set()
        self._begin_at_zero()

    def count(self, batch: Scored) -> None:
        """Count a judged batch."""
        judged = self.judged
        assert judged is not None
        self.changes += 1
        self.scoring.extend([batch.seconds] * sum([call.responses for call in batch.calls]))
        judged.scores.add(batch.scores)
        total, alarmed, plain = 0, False, self._policy.plain
        pvalues: list[float] = []
        runs: list[tuple[str, str, int, int]] = []  # of calls alike: version, method, rows, and rows that pass
        version = method = ""
        rows_of_run = passed = 0
        for call in batch.calls:
            verdict = call.verdict
            assert verdict is not None
            if verdict.version != version or call.method != method:
                if rows_of_run:
                    runs.append((version, method, rows_of_run, passed))
                version, method, rows_of_run, passed = verdict.version, call.method, 0, 0
            of_call = verdict.pvalues
            pvalues += of_call
            rows = len(of_call)
            rows_of_run += rows
            if verdict.severity is None and plain and verdict.weighed is None:  # most are so
                passed += rows
            else:
                alarmed = alarmed or verdict.severity is not None
                self._count_other(call, verdict, rows)
            if call.trace:
                self.pvalue.exemplar(min(of_call), call.trace)
        if rows_of_run:
            runs.append((version, method, rows_of_run, passed))
        self.pvalue.extend(pvalues)
        versions: list[tuple[str, int]] = []
        for version, method, rows_of_run, passed in runs:
            total += rows_of_run
            versions.append((version, rows_of_run))
            if passed:
                self.responses[self.version(version), method, "pass"] += passed
        judged.evidence.add(batch, total, alarmed, versions)
        for severity in batch.ended or ():
            self.sessions[severity or "none"] += 1
        if batch.keyless != (0, 0):
            for what, calls in zip(KEYS, batch.keyless, strict=True):
                self.keyless[what] += calls

    def unjudged(self, version: str, method: str, reason: str, responses: int = 1) -> None:
        """Count responses that were not judged."""
        self.changes += 1
        self.unscored[reason] += responses
        self.responses[self.version(version), method, "unscored"] += responses

    def acted(self, action: str, calls: int = 1) -> None:
        """Count what enforce did to calls."""
        self.changes += 1
        self.actions[action] += calls

    def shadowed(self, severity: str, live: str) -> None:
        """Count the candidate's severity of a response, by the live bundle's severity."""
        self.changes += 1
        self.shadows[severity, live] += 1

    def totals(self) -> tuple[int, dict[str, int]]:
        """How many units were judged, and alarms by severity, the most severe first. The units are responses, or
        sessions where the promise is for sessions.
        """
        if self.sessions:
            return sum(self.sessions.values()), {severity: self.sessions[severity] for severity in self._severities}
        alarms = dict.fromkeys(self._severities, 0)
        for (_, severity), count in self.alarms.items():
            alarms[severity] += count
        judged = sum(count for (_, _, decision), count in self.responses.items() if decision != "unscored")
        return judged, alarms

    def figures(self) -> dict[str, Any]:
        """What was counted so far, summed over versions and methods, as plain data."""
        judged, alarms = self.totals()
        return {
            "judged": judged,
            "alarms": alarms,
            "unscored": {reason: count for reason, count in self.unscored.items() if count},
            "actions": {action: count for action, count in self.actions.items() if count},
            "pvalue": self.pvalue.figures()[0],
            "scores": [] if self.judged is None else self.judged.scores.figures(),
            "scoring": {"median": self.scoring.quantile(0.5), "p99": self.scoring.quantile(0.99)},
        }

    def take_delta(self) -> dict[str, Any]:
        """The counts since the last call, as plain data. The process that merges them computes evidence."""
        delta: dict[str, Any] = {}
        for name in _COUNTERS:
            counter = getattr(self, name)
            delta[name] = [[*([key] if isinstance(key, str) else key), count] for key, count in counter.items()]
            counter.clear()
        for name in _HISTOGRAMS:
            delta[name] = getattr(self, name).take_delta()
        delta["scores"] = None if self.judged is None else self.judged.scores.take_delta()
        if self.judged is not None:
            delta["evidence"] = self.judged.evidence.tally.facts()
            self.judged.evidence.tally.clear()
        return delta

    def merge(self, delta: dict[str, Any]) -> None:
        """Add the counts of the same model in another process."""
        self.changes += 1
        for name in _COUNTERS:
            counter = getattr(self, name)
            for *key, count in delta[name]:
                counter[tuple(key) if len(key) > 1 else key[0]] += count
        for version, *_ in list(self.responses):
            self.version(version)
        for name in _HISTOGRAMS:
            getattr(self, name).merge(delta[name])
        if self.judged is not None:
            if delta["scores"] is not None:
                self.judged.scores.merge(delta["scores"])
            if "evidence" in delta:
                self.judged.evidence.read(delta["evidence"])

    def others_counted(self, more: Sequence[int], cause: str = "") -> None:
        """Add to the evidence what other replicas have counted, of the model or of a part of its traffic."""
        if self.judged is not None:
            self.changes += 1
            if cause:
                self.judged.evidence.add_counts_by_cause(cause, more)
            else:
                self.judged.evidence.add_counts(more)

    def inherit(self, before: ModelSeries, *, same_bundle: bool) -> None:
        """Continue the counts of another series of this model. Scores and evidence are continued for the same bundle
        only.
        """
        for name in (*_COUNTERS, *_HISTOGRAMS, "alarm_traces", "_versions"):
            setattr(self, name, getattr(before, name))
        if same_bundle:
            self.judged = before.judged
        self._begin_at_zero()

    def _count_alarms(self, version: str, severities: Sequence[str | None], trace: str) -> int:
        flagged = 0
        for severity in severities:
            if severity is not None:
                flagged += 1
                self.alarms[version, severity] += 1
                if trace:
                    self.alarm_traces[version, severity] = Exemplar({"trace_id": trace}, 1.0, time.time())
        return flagged

    def _count_other(self, call: Call, verdict: Verdict, rows: int) -> None:
        """Count a call that alarms, or whose answer was weighed."""
        version, flagged = self.version(verdict.version), 0
        if verdict.severity is not None:
            flagged = self._count_alarms(version, verdict.severities, call.trace)
        if verdict.weighed is not None or not self._policy.plain:
            self._count_actions(version, call, verdict)
            return
        if flagged:
            self.responses[version, call.method, "flag"] += flagged
        if flagged < rows:
            self.responses[version, call.method, "pass"] += rows - flagged

    def _count_actions(self, version: str, call: Call, verdict: Verdict) -> None:
        for row, severity in enumerate(verdict.severities):
            worth = verdict.weighed and verdict.weighed.rows(row, row + 1)
            action = self._policy.action(severity, [severity], worth, call)
            self.responses[version, call.method, action] += 1

    def version(self, version: str) -> str:
        """The version as a label, cut where it is long, `other` once there are too many."""
        version = version[:MAX_VERSION_LENGTH]
        if version not in self._versions:
            if len(self._versions) >= MAX_VERSIONS:
                return "other"
            self._versions.add(version)
            self._version_at_zero(version)
        return version

    def _begin_at_zero(self) -> None:
        """Have every counter whose labels are known: Prometheus sees no increase in one that begins at 1."""
        for reason in REASONS:
            if reason != ("unknown_model" if self._model is not None else "no_bundle"):
                self.unscored[reason] += 0
        if self._model is None:
            self._version_at_zero("")
            return
        for action in (*self._model.policy.actions, "refused"):
            self.actions[action] += 0
        self._version_at_zero("")  # until one is told, and of what cannot be read
        if self._model.scoring is None:
            return
        severities = (*self._severities, "none")
        promise = self._model.scoring.promise
        if promise.sessions is not None:
            for severity in severities:
                self.sessions[severity] += 0
        if promise.sessions is not None:
            self.keyless["session"] += 0
        elif promise.groups and promise.classes is None:  # a response always names its class
            self.keyless["group"] += 0
        if (shadow := self._model.shadow) is not None and shadow.scoring is not None:
            shadow_severities = (*shadow.scoring.promise.alphas, "none", "failed")
            for pair in itertools.product(shadow_severities, severities):
                self.shadows[pair] += 0

    def _version_at_zero(self, version: str) -> None:
        for severity in self._severities:
            self.alarms[version, severity] += 0
        judged: tuple[str, ...] = ()
        if self._model is not None and self._model.scoring is not None:
            judged = ("pass", *self._model.policy.actions)
        for method, decision in itertools.product(self._methods, (*judged, "unscored")):
            self.responses[version, method, decision] += 0


def _score_buckets(reference: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
    """Bounds from a detector's own calibration scores: its quantiles, and beyond its maximum."""
    quantiles = np.quantile(reference, [0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0])
    spread = float(quantiles[-1] - quantiles[0]) or 1.0
    beyond = [float(quantiles[-1]) + spread * step for step in (1, 5)]
    return sorted({*(float(f"{q:.6g}") for q in quantiles), *(float(f"{b:.6g}") for b in beyond)})
