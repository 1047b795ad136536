"""What is shown of one model: made of its counts when somebody looks, and kept until something is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from tocsin.alerting.limits import PageLimits, page_limits
from tocsin.alerting.watched import watched_model
from tocsin.judgement.levels import AdaptiveLevels
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.scoring import Scoring
from tocsin.sinks import families as of
from tocsin.sinks.causes import Cause
from tocsin.sinks.evidence import GroupEvidence
from tocsin.sinks.exposition import KeptLines, Writer
from tocsin.sinks.families import Family, Sample
from tocsin.sinks.finding import Finding
from tocsin.sinks.series import ModelSeries


class ModelSnapshot:
    """A model's series as samples, lines or plain figures. Not safe between threads.

    Evidence takes most of the time, so it is weighed apart (`weigh`), and its last value shown otherwise.
    `weighed_at` is when that was last, on the monotonic clock.
    """

    def __init__(
        self, name: str, series: ModelSeries, model: GuardedModel | None, limits: PageLimits | None = None
    ) -> None:
        self.name, self._series = name, series
        self._promise: Mapping[str, float] = {}
        self._quiet: Mapping[str, float] = {}
        self._drift: float | None = None
        self._inputs: float | None = None
        self._causes: Sequence[Cause] = ()
        self._groups: Sequence[GroupEvidence] = () if series.judged is None else series.judged.evidence.by_group()
        self.finding: Finding | None = None
        self._limits: tuple[float, float] | None = None
        self._weighed = -1  # series.changes then
        self._counted, self._evidence = KeptLines(), KeptLines()
        self._fixed: list[Sample] = []
        self._scoring = None if model is None else model.scoring
        if model is not None and model.scoring is not None:
            watched = watched_model(name, model.scoring.promise, model.config)
            self._fixed += _fixed(name, model.scoring)
            every = limits or page_limits([watched])
            self._limits = every.of(watched), every.drift
            if watched.fixed:
                self._fixed.append(Sample(of.LIMIT, (name,), every.of(watched)))
        self._fixed_lines = Writer().lines(self._fixed, openmetrics=False)  # the same in every format
        self.weighed_at = 0.0

    @property
    def written_at(self) -> float:
        """When the counts were last written, on the monotonic clock."""
        return self._counted.written_at

    @property
    def is_idle(self) -> bool:
        """Whether nothing was ever counted, so that there is no news."""
        return not self._series.changes

    def refresh(self) -> None:
        """Weigh evidence anew, if there is any news."""
        if self._weighed != self._series.changes and (judged := self._series.judged) is not None:
            evidence = judged.evidence
            promise = evidence.promise()
            self._promise, self._quiet, self._drift = promise, evidence.quiet(), evidence.drift()
            self._causes, self._inputs, self._groups = evidence.causes(), evidence.inputs(), evidence.by_group()
            if self._scoring is not None and self._limits is not None:
                unit = self._scoring.promise.unit
                self.finding = Finding.of(
                    evidence, promise, self._drift, self._causes, self._limits, unit, self._inputs
                )
            self._weighed, self.weighed_at = self._series.changes, time.monotonic()

    def figures(self) -> dict[str, Any]:
        """What was counted so far, as plain data for people to look at."""
        return {
            **self._series.figures(),
            "promise": dict(self._promise),
            "quiet": dict(self._quiet),
            "drift": self._drift,
            "inputs": self._inputs,
            "causes": [cause._asdict() for cause in self._causes],
            "groups": [group._asdict() for group in self._groups],
            "finding": None if self.finding is None else self.finding.facts(),
        }

    def lines(self, *, openmetrics: bool, cached: bool = False) -> Mapping[Family, str]:
        """The samples as lines, by family; `cached`: as they were written last, if they were."""
        counted = self._counted.lines(self._counts, self._series.changes, openmetrics=openmetrics, cached=cached)
        weighed = self._evidence.lines(self._weights, self._weighed, openmetrics=openmetrics, cached=cached)
        moving = Writer().lines(self._moving(), openmetrics=openmetrics)
        return {**self._fixed_lines, **counted, **weighed, **moving}

    def samples(self) -> Sequence[Sample]:
        """Everything that is shown now."""
        return [*self._counts(), *self._weights(), *self._moving(), *self._fixed]

    def _counts(self) -> Iterator[Sample]:
        """What changes only when something is counted."""
        name, series = self.name, self._series
        for (version, method, decision), count in series.responses.items():
            yield Sample(of.RESPONSES, (name, version, method, decision), count)
        for key, count in series.alarms.items():
            yield Sample(of.ALARMS, (name, *key), count, series.alarm_traces.get(key))
        for family, counts in (
            (of.UNSCORED, series.unscored),
            (of.SESSIONS, series.sessions),
            (of.ACTIONS, series.actions),
            (of.KEYLESS, series.keyless),
        ):
            for label, count in counts.items():
                yield Sample(family, (name, label), count)
        for pair, count in series.shadows.items():
            yield Sample(of.SHADOWS, (name, *pair), count)
        if series.judged is None or self._scoring is None:
            return
        judged, alarms = series.totals()
        yield Sample(of.PROMISED, (name,), judged)
        for severity, count in zip(alarms, accumulate(alarms.values()), strict=True):
            yield Sample(of.PROMISED_ALARMS, (name, severity), count)
        yield Sample(of.PVALUE, (name,), series.pvalue.buckets()[0])
        yield Sample(of.SCORING, (name,), series.scoring.buckets()[0])
        for detector, counted in zip(self._scoring.scorer.detectors, series.judged.scores.buckets(), strict=True):
            yield Sample(of.SCORE, (name, detector), counted)

    def _weights(self) -> Iterator[Sample]:
        """What changes only when evidence is weighed."""
        if self._series.judged is None or self._scoring is None:
            return
        name = self.name
        for severity, value in self._promise.items():
            yield Sample(of.EVIDENCE, (name, severity), value)
        for group, responses, alarms_of_group, logs in self._groups:
            yield Sample(of.OF_GROUP, (name, group), responses)
            for severity, count in alarms_of_group.items():
                yield Sample(of.ALARMS_OF_GROUP, (name, group, severity), count)
            for severity, value in logs.items():
                yield Sample(of.EVIDENCE_OF_GROUP, (name, group, severity), value)
        for severity, value in self._quiet.items():
            yield Sample(of.QUIET, (name, severity), value)
        if self._drift is not None:
            yield Sample(of.DRIFT, (name,), self._drift)
        if self._inputs is not None:
            yield Sample(of.INPUTS, (name,), self._inputs)
        for cause in self._causes:
            yield Sample(of.CAUSE, (name, cause.kind, cause.name), cause.log_evalue)
        change = None if self.finding is None else self.finding.change
        yield Sample(of.CHANGED, (name,), 0 if change is None else change.when)

    def _moving(self) -> Iterator[Sample]:
        """What feedback changes."""
        if self._scoring is None or self._scoring.judge.levels is None:
            return
        levels = self._scoring.judge.levels
        for severity, now in levels.now().items():
            yield Sample(of.LEVEL, (self.name, severity), now)
        if isinstance(levels, AdaptiveLevels):
            for outcome, count in levels.outcomes.items():
                yield Sample(of.FEEDBACK, (self.name, outcome), count)


def _fixed(name: str, scoring: Scoring) -> Iterator[Sample]:
    """What is so as long as the bundle is."""
    for severity, promised in scoring.promise.alphas.items():
        yield Sample(of.ALPHA, (name, severity), promised)
        if not scoring.promise.is_per_step:  # what is counted is sessions, of which nothing is expected then
            yield Sample(of.EXPECTED, (name, severity), scoring.promise.laws[severity].mean_rate)
    yield Sample(of.CARRIED, (name,), min(law.n for law in scoring.promise.laws.values()))
    yield Sample(of.BUNDLE, (name, scoring.digest), 1)
    when = scoring.bundle.provenance.get("calibrated", {}).get("timestamp")
    if isinstance(when, int | float):
        yield Sample(of.CALIBRATED, (name,), when)
