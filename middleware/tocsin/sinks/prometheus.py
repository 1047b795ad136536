"""Verdicts as Prometheus metrics.

Counting happens on the serving path, so it is plain integers in plain dictionaries; the client library's families
are made of them only when somebody scrapes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tocsin.judgement.call import Call
from tocsin.judgement.levels import AdaptiveLevels
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.sink import Scored
from tocsin.sinks.histogram import Histogram
from tocsin.sinks.series import SECONDS_BUCKETS, ModelSeries


class PrometheusSink(Collector):
    """The sink that Prometheus scrapes: register it, or let `registry` do so.

    Labels are bounded: models are those of the configuration and `other`, detectors and severities those of their
    bundles, methods those of the protocols, versions the first 50 of a model.
    """

    def __init__(self, models: Mapping[str, GuardedModel]) -> None:
        self._models = dict(models)
        self._series = {name: ModelSeries(model) for name, model in models.items()}
        self._series["other"] = ModelSeries(None)
        self._added = Histogram(SECONDS_BUCKETS)
        self._lock = threading.Lock()  # between those who count and those who scrape

    def follow(self, models: Mapping[str, GuardedModel]) -> None:
        """Count these models from here on; those that were there before go on from what they had."""
        series = {name: ModelSeries(model) for name, model in models.items()}
        with self._lock:
            for name, made in series.items():
                before = self._models.get(name)
                if before is not None:
                    made.succeed(self._series[name], same_bundle=before.digests[0] == models[name].digests[0])
            series["other"] = self._series["other"]
            self._models, self._series = dict(models), series

    @property
    def models(self) -> Mapping[str, GuardedModel]:
        """The models that are counted."""
        return self._models

    def figures(self) -> dict[str, dict[str, Any]]:
        """What was counted of each model, as plain data for people to look at."""
        with self._lock:
            return {name: series.figures() for name, series in self._series.items() if name in self._models}

    def counts(self) -> dict[str, tuple[int, dict[str, int]]]:
        """How many were judged of each model, and their alarms by severity."""
        with self._lock:
            return {name: self._series[name].totals() for name in self._models}

    def added_quantiles(self) -> dict[str, float | None]:
        """How long trailers waited for their verdict, in seconds."""
        with self._lock:
            return {"median": self._added.quantile(0.5), "p99": self._added.quantile(0.99)}

    def take(self) -> dict[str, Any]:
        """What was counted since this was last asked, as plain data."""
        with self._lock:
            return {
                "models": {name: series.take() for name, series in self._series.items()},
                "added": self._added.take(),
            }

    def absorb(self, taken: dict[str, Any]) -> None:
        """Count what the sink of another process has taken."""
        with self._lock:
            for name, counts in taken["models"].items():
                if name in self._series:
                    self._series[name].absorb(counts)
            self._added.absorb(taken["added"])

    def registry(self) -> CollectorRegistry:
        """A registry that holds this sink alone."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def scored(self, batch: Scored) -> None:
        """Count a judged batch."""
        with self._lock:
            series = self._series.get(batch.model)
            if series is not None:  # else it has left the configuration meanwhile
                series.count(batch)

    def unscored(self, call: Call) -> None:
        """Count a call that passed without judgement."""
        verdict = call.verdict
        assert verdict is not None and verdict.unscored is not None
        series = self._series.get(verdict.model, self._series["other"])
        with self._lock:
            series.unscored[verdict.unscored] += 1
            series.responses[series.version(verdict.version), call.method, "unscored"] += 1

    def acted(self, call: Call, action: str) -> None:
        """Count what enforce did to a call."""
        with self._lock:
            self._series.get(call.model, self._series["other"]).actions[action] += 1

    def shadowed(self, call: Call, severity: str | None) -> None:
        """Count what a candidate bundle said of a judged call, by what the live one said."""
        live = call.verdict.severity if call.verdict is not None else None
        with self._lock:
            self._series.get(call.model, self._series["other"]).shadows[severity or "none", live or "none"] += 1

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
        yield from self._outcomes()

    def _outcomes(self) -> Iterable[Metric]:
        sessions = CounterMetricFamily(
            "tocsin_sessions", "Sessions that ended, by their worst severity or none.", labels=["model", "severity"]
        )
        feedback = CounterMetricFamily(
            "tocsin_feedback", "Labels that came back, by what became of them.", labels=["model", "outcome"]
        )
        actions = CounterMetricFamily(
            "tocsin_actions", "What enforce did to calls; refused: failed closed.", labels=["model", "action"]
        )
        shadows = CounterMetricFamily(
            "tocsin_shadow_responses",
            "Responses that the candidate bundle judged too, by its severity and the live one's.",
            labels=["model", "severity", "live"],
        )
        for name, series in self._series.items():
            for action, count in series.actions.items():
                actions.add_metric([name, action], count)
            for pair, count in series.shadows.items():
                shadows.add_metric([name, *pair], count)
        for name, model in self._models.items():
            for severity, count in self._series[name].sessions.items():
                sessions.add_metric([name, severity], count)
            if model.bundle is not None and isinstance(model.judge.levels, AdaptiveLevels):
                for outcome, count in model.judge.levels.outcomes.items():
                    feedback.add_metric([name, outcome], count)
        yield from (sessions, feedback, actions, shadows)

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
        expected = GaugeMetricFamily(
            "tocsin_expected_alarm_ratio",
            "The rate of alarms that calibration leads one to expect on safe traffic.",
            labels=["model", "severity"],
        )
        evidence = GaugeMetricFamily(
            "tocsin_promise_log_evalue",
            "Log of the evidence since start that the promised rate is exceeded.",
            labels=["model", "severity"],
        )
        drift = GaugeMetricFamily(
            "tocsin_drift_log_evalue",
            "Log of the evidence since start that scores have drifted from calibration.",
            labels=["model"],
        )
        level = GaugeMetricFamily(
            "tocsin_level",
            "The p-value at or below which responses alarm now, where that moves.",
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
            for severity, promised in model.promise.alphas.items():
                alpha.add_metric([name, severity], promised)
                expected.add_metric([name, severity], model.promise.laws[severity].mean_rate)
            watched = self._series[name].evidence
            assert watched is not None
            for severity, value in watched.promise().items():
                evidence.add_metric([name, severity], value)
            if (drifted := watched.drift()) is not None:
                drift.add_metric([name], drifted)
            for severity, now in ({} if model.judge.levels is None else model.judge.levels.now()).items():
                level.add_metric([name, severity], now)
            size.add_metric([name], min(law.n for law in model.promise.laws.values()))
            info.add_metric([name, model.bundle.digest], 1)
            when = model.bundle.made.get("calibrated", {}).get("timestamp")
            if isinstance(when, int | float):
                made.add_metric([name], when)
        yield from (alpha, expected, evidence, drift, level, size, info, made)
