"""Sends spans and metrics to an OTLP receiver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tocsin.configuration.telemetry import TelemetryConfig
from tocsin.judgement.guard import Guard
from tocsin.sinks.finding import Finding
from tocsin.sinks.spans import SpanSink
from tocsin.telemetry.exporters import metric_exporter, resource, span_exporter

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from tocsin.telemetry.metrics import MetricSender

SIGNALS, OUTCOMES = ("traces", "metrics"), ("sent", "failed")
Facts = dict[str, dict[str, int]]  # metric -> labels, a space between -> number


class Telemetry(Collector):
    """The telemetry that a process sends, and counts of exports. Raises ConfigError when the SDK is not installed."""

    def __init__(self, config: TelemetryConfig) -> None:
        self._config = config
        self._counts: Counter[tuple[str, str]] = Counter()
        self._resource = resource() if config.traces is not None or config.metrics is not None else None
        self._processor: BatchSpanProcessor | None = None
        self._sender: MetricSender | None = None

    def trace(self, guard: Guard, finding: Callable[[str], Finding | None] = lambda model: None) -> None:
        """Send spans of the guard's calls, if that is configured. `finding` returns what evidence found of a model."""
        if self._config.traces is None or self._resource is None:
            return
        exporter = self._counted(span_exporter(self._config), "traces")
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._processor = BatchSpanProcessor(exporter)
        share, follow = self._config.traces, self._config.follow_callers
        guard.sinks.append(SpanSink(self._processor, self._resource, share, follow=follow, finding=finding))
        guard.timed = True

    def send(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Send the families of `collect`, if that is configured."""
        if self._config.metrics is None or self._resource is None:
            return
        from tocsin.telemetry.metrics import MetricSender

        exporter = self._counted(metric_exporter(self._config), "metrics")
        self._sender = MetricSender(collect, exporter, self._resource, self._config.metrics.total_seconds())

    def close(self) -> None:
        """Send the last spans and metrics."""
        if self._processor is not None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
        if self._sender is not None:
            self._sender.close()

    def facts(self) -> Facts:
        """How many exports succeeded and failed."""
        counts = {f"{signal} {outcome}": self._counts[signal, outcome] for signal in SIGNALS for outcome in OUTCOMES}
        return {"otlp_exports": counts}

    def collect(self) -> Iterable[Metric]:
        """The same as metrics."""
        return families(self.facts())

    def _counted(self, exporter: Any, signal: str) -> Any:
        """The same exporter, whose exports are counted from here on, by their outcome."""
        export = exporter.export

        def counting(*args: Any, **kwargs: Any) -> Any:
            result = export(*args, **kwargs)
            self._counts[signal, "sent" if result.name == "SUCCESS" else "failed"] += 1
            return result

        exporter.export = counting
        return exporter


def families(of: Mapping[str, Mapping[str, int]]) -> Iterable[Metric]:
    """These counts as Prometheus families; none where nothing is exported."""
    exports = CounterMetricFamily(
        "tocsin_otlp_exports", "Batches sent to the OTLP receiver.", labels=["signal", "outcome"]
    )
    for key, count in of.get("otlp_exports", {}).items():
        exports.add_metric(key.split(), count)
    if exports.samples:
        yield exports
