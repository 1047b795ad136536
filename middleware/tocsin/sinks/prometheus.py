"""Verdicts as Prometheus metrics.

Counting happens on the serving path: it adds to integers in dictionaries, a few small batches at a time. Families of
prometheus-client are built only for a scrape.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tocsin.alerting.limits import PageLimits, page_limits
from tocsin.alerting.watched import watched_model
from tocsin.judgement.call import Call
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.sink import Scored, Sink
from tocsin.sinks.exposition import Writer, metrics
from tocsin.sinks.families import ADDED, BATCHES, ROWS_BUCKETS, SECONDS_BUCKETS, Family, Sample
from tocsin.sinks.finding import Finding
from tocsin.sinks.histogram import FOLD, Histogram
from tocsin.sinks.series import MAX_VERSION_LENGTH, ModelSeries
from tocsin.sinks.snapshot import ModelSnapshot
from tocsin.state.store import Exchange

Result = TypeVar("Result")
Item = TypeVar("Item")

# Seconds of one look that evidence may take, and lines that have changed: a thousand busy models would hold up whoever
# serves. What is left over is shown as it was, and comes first the next time.
WEIGHING, WRITING = 0.015, 0.03
PENDING_BATCHES = 16  # small batches that are counted together
LARGE_BATCH_ROWS = 64  # rows of a batch that is none of them
PARTS_EVERY = 6  # exchanges with other replicas, of which one is of the parts of the traffic as well


class PrometheusSink(Collector, Sink):
    """The sink that Prometheus scrapes: register it, or let `registry` do so.

    Labels are bounded: models are those of the configuration and `other`, detectors and severities those of their
    bundles, methods those of the protocols, versions the first 50 of a model. `before` is called before each `collect`.
    `sends_counts`: another process takes the counts (`take_delta`).
    """

    takes_runs = True

    def __init__(
        self,
        models: Mapping[str, GuardedModel],
        before: Callable[[], None] = lambda: None,
        *,
        sends_counts: bool = False,
    ) -> None:
        self._before, self._sends_counts = before, sends_counts
        self._models = dict(models)
        self._series = {name: ModelSeries(model, sends_counts=sends_counts) for name, model in models.items()}
        self._series["other"] = ModelSeries(None, _served_methods(models))
        self._acting = _acting_models(models)
        self._looks = self._all_looks()
        self._added, self._batches = Histogram(SECONDS_BUCKETS, native=True), Histogram(ROWS_BUCKETS)
        self._writer = Writer()
        self._exchanges = 0
        self._waiting: deque[Scored] = deque()  # judged, and not counted yet
        # Not counted yet: what trailers waited, responses by model, version, method and reason, and calls by model and
        # action.
        self._waits: list[float] = []
        self._unjudged: list[tuple[str, str, str, str]] = []
        self._acted: list[tuple[str, str]] = []
        self._lock = threading.Lock()  # between those who count and those who scrape

    def follow(self, models: Mapping[str, GuardedModel]) -> None:
        """Count these models from here on. Models that were counted before keep their counts."""
        series = {name: ModelSeries(model, sends_counts=self._sends_counts) for name, model in models.items()}
        with self._counted():
            for name, series_of_model in series.items():
                before = self._models.get(name)
                if before is not None:
                    series_of_model.inherit(
                        self._series[name], same_bundle=before.digests[0] == models[name].digests[0]
                    )
            series["other"] = ModelSeries(None, _served_methods(models))
            series["other"].inherit(self._series["other"], same_bundle=False)
            self._models, self._series, self._acting = dict(models), series, _acting_models(models)
            self._looks = self._all_looks()

    @property
    def models(self) -> Mapping[str, GuardedModel]:
        """The models that are counted."""
        return self._models

    @property
    def limits(self) -> PageLimits:
        """The evidence from which the page reports a problem, the same as in the default rules."""
        return page_limits(
            [
                watched_model(name, model.scoring.promise, model.config)
                for name, model in self._models.items()
                if model.scoring is not None
            ]
        )

    def figures(self) -> dict[str, dict[str, Any]]:
        """The counts of each model, as plain data for the page."""
        return {look.name: self._with_lock(look.figures) for look in self._weighed() if look.name in self._models}

    def counts(self) -> dict[str, tuple[int, dict[str, int]]]:
        """How many were judged of each model, and their alarms by severity."""
        with self._counted():
            return {name: self._series[name].totals() for name in self._models}

    def added_quantiles(self) -> dict[str, float | None]:
        """How long trailers waited for their verdict, in seconds."""
        with self._counted():
            return {"median": self._added.quantile(0.5), "p99": self._added.quantile(0.99)}

    def take_delta(self) -> dict[str, Any]:
        """What was counted since the last call, as plain data."""
        with self._counted():
            return {
                "models": {name: series.take_delta() for name, series in self._series.items()},
                "added": self._added.take_delta(),
                "batches": self._batches.take_delta(),
            }

    def merge(self, delta: dict[str, Any]) -> None:
        """Add what the sink of another process has counted."""
        with self._lock:
            for name, counts in delta["models"].items():
                if name in self._series:
                    self._series[name].merge(counts)
            self._added.merge(delta["added"])
            self._batches.merge(delta["batches"])

    def exchange(self, shared: Exchange, *, last: bool = False) -> None:
        """Give the counts of evidence to `shared`, and add what other replicas have counted. `last`: those of the parts
        of the traffic as well, which otherwise come less often.
        """
        parts, self._exchanges = last or self._exchanges % PARTS_EVERY == 0, self._exchanges + 1
        with self._counted():
            counts: dict[str, list[int]] = {}
            by_key: dict[str, tuple[ModelSeries, str]] = {}
            for name, series in self._series.items():
                if series.judged is None:
                    continue
                key = f"{name}:{self._models[name].digests[0]}"
                by_key[key], counts[key] = (series, ""), series.judged.evidence.counts()
                for part, more in series.judged.evidence.counts_by_cause().items() if parts else ():
                    by_key[f"{key}:{part}"], counts[f"{key}:{part}"] = (series, part), more
        for key, others in shared(counts).items():
            series, part = by_key[key]
            with self._lock:
                series.others_counted(others, part)

    def finding(self, model: str) -> Finding | None:
        """What the evidence of a model had found when it was last computed."""
        look = self._looks.get(model)
        return None if look is None else look.finding

    def findings(self) -> dict[str, Finding]:
        """The findings of all models, computed anew as far as time allows."""
        return {look.name: look.finding for look in self._weighed() if look.finding is not None}

    def scored(self, batch: Scored) -> None:
        """Count a judged batch. A small batch waits for others while its responses are not needed."""
        self._waiting.append(batch)
        if (
            len(self._waiting) >= PENDING_BATCHES
            or len(batch.scores) >= LARGE_BATCH_ROWS
            or batch.model in self._acting
        ):
            with self._lock:
                self._count()

    def unscored(self, call: Call) -> None:
        """Count a call that passed without judgement."""
        verdict = call.verdict
        assert verdict is not None and verdict.unscored is not None
        what = verdict.model, verdict.version[:MAX_VERSION_LENGTH], call.method, verdict.unscored
        if call.responses == 1:
            self._unjudged.append(what)
        else:
            self._unjudged += [what] * call.responses
        if len(self._unjudged) >= FOLD:
            with self._lock:
                self._count()

    def acted(self, call: Call, action: str) -> None:
        """Count what enforce did to a call."""
        self._acted.append((call.model, action))
        if len(self._acted) >= FOLD:
            with self._lock:
                self._count()

    def shadowed(self, call: Call, severity: str | None) -> None:
        """Count a candidate bundle's severity of a judged call, by the live bundle's severity."""
        live = call.verdict.severity if call.verdict is not None else None
        with self._lock:
            self._series.get(call.model, self._series["other"]).shadowed(severity or "none", live or "none")

    def added(self, seconds: float) -> None:
        """Count the time that a response's trailers waited for their verdict."""
        self._waits.append(seconds)
        if len(self._waits) >= FOLD:
            with self._lock:
                self._count()

    def collect(self) -> Iterable[Metric]:
        """Everything counted so far, as the client library's families."""
        self._before()
        return metrics(self.samples())

    def samples(self) -> list[Sample]:
        """Everything counted so far."""
        return [*(sample for look in self._weighed() for sample in self._with_lock(look.samples)), *self._of_all()]

    def blocks(self, *, openmetrics: bool) -> Iterable[Mapping[Family, str]]:
        """The samples as lines of text, model by model. The lock is held for one model at a time."""
        ends = 0.0
        for look in sorted(self._weighed(), key=lambda item: item.written_at):
            ends = ends or time.thread_time() + WRITING
            late = time.thread_time() > ends
            yield self._with_lock(partial(look.lines, openmetrics=openmetrics, cached=late))
        yield self._writer.lines(self._of_all(), openmetrics=openmetrics)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Holds the lock, with everything that waits counted."""
        with self._lock:
            self._count()
            yield

    def _count(self) -> None:
        """Count what waits. Under the lock."""
        self._added.extend(_take_all(self._waits))
        other = self._series["other"]
        for (model, version, method, reason), responses in Counter(_take_all(self._unjudged)).items():
            self._series.get(model, other).unjudged(version, method, reason, responses)
        for (model, action), calls in Counter(_take_all(self._acted)).items():
            self._series.get(model, other).acted(action, calls)
        while self._waiting:
            batch = self._waiting.popleft()
            series = self._series.get(batch.model)
            if series is not None:  # else it has left the configuration meanwhile
                series.count(batch)
                self._batches.add(len(batch.scores))

    def _with_lock(self, tell: Callable[[], Result]) -> Result:
        with self._lock:
            return tell()

    def _of_all(self) -> list[Sample]:
        with self._lock:
            return [Sample(ADDED, (), self._added.buckets()[0]), Sample(BATCHES, (), self._batches.buckets()[0])]

    def _weighed(self) -> list[ModelSnapshot]:
        """The snapshot of every model. Evidence is computed anew as far as time allows, the oldest first."""
        with self._counted():
            looks = list(self._looks.values())
        ends = time.thread_time() + WEIGHING
        for look in sorted(looks, key=lambda item: (item.is_idle, item.weighed_at)):
            with self._lock:
                look.refresh()
            if time.thread_time() > ends:
                break
        return looks

    def _all_looks(self) -> dict[str, ModelSnapshot]:
        limits, models = self.limits, self._models
        return {name: ModelSnapshot(name, series, models.get(name), limits) for name, series in self._series.items()}


def _take_all(waiting: list[Item]) -> list[Item]:
    """What waits to be counted, which is taken out; more may come meanwhile."""
    items = waiting[:]
    del waiting[: len(items)]
    return items


def _acting_models(models: Mapping[str, GuardedModel]) -> set[str]:
    """The models whose alarms lead to actions, which may depend on the response's own bytes."""
    return {name for name, model in models.items() if not model.policy.plain}


def _served_methods(models: Mapping[str, GuardedModel]) -> list[str]:
    """The methods that any of the models is served by."""
    return list(dict.fromkeys(method for model in models.values() for method in model.served))
