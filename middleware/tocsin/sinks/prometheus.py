"""Verdicts as Prometheus metrics.

Counting happens on the serving path, so it is plain integers in plain dictionaries; the client library's families
are made of them only when somebody scrapes.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from tocsin.judgement.call import Call
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.sink import Scored
from tocsin_calibration import Promise, promise_log_evalue

P_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SECONDS_BUCKETS = (2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 1.0)
FOLD = 1024  # values that wait before they are counted
VERSIONS = 50  # further versions of a model fold into `other`


class Histogram:
    """Counts of values by bucket, one row of counts a series; values wait in a list and are counted many at a time.

    `bounds` are the upper bounds of each series' buckets.
    """

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sums", "_waiting")

    def __init__(self, *bounds: Iterable[float]) -> None:
        self._bounds = [np.asarray(list(series), np.float64) for series in bounds]
        self._counts = [np.zeros(len(series) + 1, np.int64) for series in self._bounds]
        self._sums = np.zeros(len(self._bounds))
        self._exemplars: dict[int, Exemplar] = {}
        self._waiting: list[Any] = []

    def add(self, value: Any) -> None:
        """Count one value; with several series, an array (rows, series)."""
        self._waiting.append(value)
        if len(self._waiting) >= FOLD:
            self._fold()

    def extend(self, values: Sequence[float]) -> None:
        """Count several values of the only series."""
        self._waiting += values
        if len(self._waiting) >= FOLD:
            self._fold()

    def exemplar(self, value: float, trace: str) -> None:
        """Remember the trace of a value in its bucket of the only series."""
        bucket = int(np.searchsorted(self._bounds[0], value, side="left"))
        self._exemplars[bucket] = Exemplar({"trace_id": trace}, value, time.time())

    def _fold(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        columns = np.vstack(waiting).T if len(self._bounds) > 1 else [np.asarray(waiting, np.float64).ravel()]
        for i, (bounds, column) in enumerate(zip(self._bounds, columns, strict=True)):
            found = np.searchsorted(bounds, column, side="left")
            self._counts[i] += np.bincount(found, minlength=len(bounds) + 1)
            self._sums[i] += float(np.sum(column, dtype=np.float64))

    def into(self, family: HistogramMetricFamily, labels: list[list[str]]) -> None:
        """Add each series to a family, under its labels."""
        self._fold()
        for series, own in enumerate(labels):
            buckets: list[Any] = []
            for i, total in enumerate(np.cumsum(self._counts[series]).tolist()):
                bound = f"{self._bounds[series][i]:.6g}" if i < len(self._bounds[series]) else "+Inf"
                exemplar = self._exemplars.get(i)
                buckets.append((bound, total, exemplar) if exemplar else (bound, total))
            family.add_metric(own, buckets, float(self._sums[series]))


class ModelSeries:
    """What is counted of one model."""

    def __init__(self, model: GuardedModel | None) -> None:
        self.responses: dict[tuple[str, str, str], int] = defaultdict(int)  # version, method, decision
        self.alarms: dict[tuple[str, str], int] = defaultdict(int)  # version, severity
        self.alarm_traces: dict[tuple[str, str], Exemplar] = {}
        self.unscored: dict[str, int] = defaultdict(int)
        self.judged = 0  # responses with a p-value
        self.pvalue = Histogram(P_BUCKETS)
        self.scoring = Histogram(SECONDS_BUCKETS)
        self.scores: Histogram | None = None
        if model is not None and model.bundle is not None:
            self.scores = Histogram(*(_score_buckets(column) for column in model.promise.reference.T))
        self._versions: set[str] = set()

    def log_evalue(self, promise: Promise, severity: str) -> float:
        """Evidence against the promise of a severity, whose alarms include the graver ones."""
        counted = [name for name, level in promise.alphas.items() if level <= promise.alphas[severity]]
        alarms = sum(count for (_, name), count in self.alarms.items() if name in counted)
        return promise_log_evalue(promise.laws[severity], alarms, self.judged)

    def version(self, version: str) -> str:
        """The version as a label, `other` once there are too many."""
        if version not in self._versions:
            if len(self._versions) >= VERSIONS:
                return "other"
            self._versions.add(version)
        return version


class PrometheusSink(Collector):
    """The sink that Prometheus scrapes: register it, or let `registry` do so.

    Labels are bounded: models are those of the configuration and `other`, detectors and severities those of their
    bundles, methods those of the protocols, versions the first 50 of a model.
    """

    def __init__(self, models: Mapping[str, GuardedModel]) -> None:
        self._models = models
        self._series = {name: ModelSeries(model) for name, model in models.items()}
        self._series["other"] = ModelSeries(None)
        self._added = Histogram(SECONDS_BUCKETS)
        self._lock = threading.Lock()  # between those who count and those who scrape

    def registry(self) -> CollectorRegistry:
        """A registry that holds this sink alone."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def scored(self, batch: Scored) -> None:
        """Count a judged batch."""
        with self._lock:
            self._count(batch)

    def _count(self, batch: Scored) -> None:
        series = self._series[batch.model]
        series.scoring.extend([batch.seconds] * len(batch.calls))
        assert series.scores is not None
        series.scores.add(batch.scores)
        for call in batch.calls:
            verdict = call.verdict
            assert verdict is not None
            version = series.version(verdict.version)
            rows = len(verdict.pvalues)
            series.pvalue.extend(verdict.pvalues)
            series.judged += rows
            flagged = 0
            if verdict.severity is not None:
                flagged = self._count_alarms(series, version, verdict.severities, call.trace)
                series.responses[version, call.method, "flag"] += flagged
            if flagged < rows:
                series.responses[version, call.method, "pass"] += rows - flagged
            if call.trace:
                series.pvalue.exemplar(min(verdict.pvalues), call.trace)

    def _count_alarms(self, series: ModelSeries, version: str, severities: Sequence[str | None], trace: str) -> int:
        flagged = 0
        for severity in severities:
            if severity is not None:
                flagged += 1
                series.alarms[version, severity] += 1
                if trace:
                    series.alarm_traces[version, severity] = Exemplar({"trace_id": trace}, 1.0, time.time())
        return flagged

    def unscored(self, call: Call) -> None:
        """Count a call that passed without judgement."""
        verdict = call.verdict
        assert verdict is not None and verdict.unscored is not None
        series = self._series.get(verdict.model, self._series["other"])
        with self._lock:
            series.unscored[verdict.unscored] += 1
            series.responses[series.version(verdict.version), call.method, "unscored"] += 1

    def added(self, seconds: float) -> None:
        """Count the time that a response's trailers waited for their verdict."""
        with self._lock:
            self._added.add(seconds)

    def collect(self) -> Iterable[Metric]:
        """Everything counted so far, as the client library's families."""
        with self._lock:
            return [*self._counts(), *self._distributions(), *self._promises()]

    def _counts(self) -> Iterable[Metric]:
        responses = CounterMetricFamily(
            "tocsin_responses",
            "Responses seen, by what became of them.",
            labels=["model", "version", "method", "decision"],
        )
        alarms = CounterMetricFamily(
            "tocsin_alarms", "Responses that raised an alarm.", labels=["model", "version", "severity"]
        )
        unscored = CounterMetricFamily(
            "tocsin_unscored", "Responses that passed without a judgement.", labels=["model", "reason"]
        )
        for name, series in self._series.items():
            for (version, method, decision), count in series.responses.items():
                responses.add_metric([name, version, method, decision], count)
            for key, count in series.alarms.items():
                alarms.add_metric([name, *key], count, exemplar=series.alarm_traces.get(key))
            for reason, count in series.unscored.items():
                unscored.add_metric([name, reason], count)
        yield from (responses, alarms, unscored)

    def _distributions(self) -> Iterable[Metric]:
        pvalue = HistogramMetricFamily("tocsin_pvalue", "Joint p-values of judged responses.", labels=["model"])
        score = HistogramMetricFamily("tocsin_score", "Detectors' scores.", labels=["model", "detector"])
        scoring = HistogramMetricFamily(
            "tocsin_scoring_seconds",
            "Time from reading a batch of messages to its verdicts.",
            labels=["model"],
        )
        for name, model in self._models.items():
            if model.bundle is None:
                continue
            series = self._series[name]
            series.pvalue.into(pvalue, [[name]])
            series.scoring.into(scoring, [[name]])
            assert series.scores is not None
            series.scores.into(score, [[name, detector] for detector in model.scorer.detectors])
        added = HistogramMetricFamily("tocsin_added_seconds", "Time that trailers waited for a verdict.", labels=[])
        self._added.into(added, [[]])
        yield from (pvalue, score, scoring, added)

    def _promises(self) -> Iterable[Metric]:
        alpha = GaugeMetricFamily("tocsin_alpha", "The promised false-alarm rate.", labels=["model", "severity"])
        evidence = GaugeMetricFamily(
            "tocsin_promise_log_evalue",
            "Log of the evidence since start that the promised rate is exceeded.",
            labels=["model", "severity"],
        )
        size = GaugeMetricFamily("tocsin_calibration_responses", "Responses that carry the promise.", labels=["model"])
        info = GaugeMetricFamily("tocsin_bundle_info", "The bundle in use; always 1.", labels=["model", "digest"])
        made = GaugeMetricFamily(
            "tocsin_bundle_calibrated_timestamp_seconds", "When the bundle was calibrated.", labels=["model"]
        )
        for name, model in self._models.items():
            if model.bundle is None:
                continue
            for severity, level in model.promise.alphas.items():
                alpha.add_metric([name, severity], level)
                evidence.add_metric([name, severity], self._series[name].log_evalue(model.promise, severity))
            size.add_metric([name], model.promise.n)
            info.add_metric([name, model.bundle.digest], 1)
            when = model.bundle.made.get("calibrated", {}).get("timestamp")
            if isinstance(when, int | float):
                made.add_metric([name], when)
        yield from (alpha, evidence, size, info, made)


def _score_buckets(reference: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
    """Bounds from a detector's own calibration scores: its quantiles, and beyond its maximum."""
    quantiles = np.quantile(reference, [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0])
    spread = float(quantiles[-1] - quantiles[0]) or 1.0
    beyond = [float(quantiles[-1]) + spread * step for step in (0.5, 1, 2, 5, 20)]
    return sorted({*(float(f"{q:.6g}") for q in quantiles), *(float(f"{b:.6g}") for b in beyond)})
