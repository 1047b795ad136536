"""Metrics through OTLP: the samples of a scrape, sent at intervals. One set of counts serves both."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.metrics_core import Metric as Family

CUMULATIVE = AggregationTemporality.CUMULATIVE


class MetricSender:
    """Sends the families of `collect` every so many seconds, and once more when closed, in its own thread."""

    def __init__(
        self, collect: Callable[[], Iterable[Family]], exporter: MetricExporter, resource: Resource, every: float
    ) -> None:
        self._collect, self._exporter, self._resource, self._every = collect, exporter, resource, every
        self._began = time.time_ns()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tocsin-otlp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send the last values."""
        self._ending.set()
        self._thread.join(5)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._ending.wait(self._every):
            self._send()
        self._send()

    def _send(self) -> None:
        now = time.time_ns()
        metrics = [metric for family in self._collect() if (metric := as_metric(family, self._began, now)) is not None]
        scope = ScopeMetrics(InstrumentationScope("tocsin"), metrics, "")
        self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))


def as_metric(family: Family, began: int, now: int) -> Metric | None:
    """A family of prometheus-client as a metric of OpenTelemetry, None when it has no samples; times in ns."""
    if not family.samples:
        return None
    data: Any
    if family.type == "histogram":
        data = Histogram(_histograms(family, began, now), CUMULATIVE)
    else:
        points = [NumberDataPoint(dict(s.labels), began, now, s.value) for s in family.samples]
        data = Sum(points, CUMULATIVE, True) if family.type == "counter" else Gauge(points)
    return Metric(family.name, family.documentation, "", data)


def _histograms(family: Family, began: int, now: int) -> list[HistogramDataPoint]:
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[str, float]]] = defaultdict(list)
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in family.samples:
        labels = tuple(pair for pair in sample.labels.items() if pair[0] != "le")
        if sample.name.endswith("_bucket"):
            buckets[labels].append((sample.labels["le"], sample.value))
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    return [_histogram(dict(labels), counts, sums[labels], began, now) for labels, counts in buckets.items()]


def _histogram(
    labels: Mapping[str, str], cumulative: list[tuple[str, float]], total: float, began: int, now: int
) -> HistogramDataPoint:
    counts = [int(count) for _, count in cumulative]
    apart = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
    bounds = [float(bound) for bound, _ in cumulative if bound != "+Inf"]
    low, high = float("inf"), float("-inf")  # unknown: left out where they are not finite
    return HistogramDataPoint(labels, began, now, counts[-1], total, apart, bounds, low, high)
