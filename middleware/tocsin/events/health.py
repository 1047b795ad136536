"""Counts of delivered, waiting and dropped events, as plain data to be added up over processes, and as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tocsin.events.delivery import DeliveryQueue

OUTCOMES = ("delivered", "repeated", "rejected", "dropped", "failed")
Facts = dict[str, dict[str, int]]  # metric -> labels, a space between -> number


def facts(delivery_queues: Iterable[DeliveryQueue]) -> Facts:
    """What the queues have counted, and how much waits now."""
    counts: Facts = {"events": {}, "events_waiting": {}}
    for outlet in delivery_queues:
        for outcome in OUTCOMES:
            key = f"{outlet.label} {outcome}"
            counts["events"][key] = counts["events"].get(key, 0) + outlet.counts[outcome]
        counts["events_waiting"][outlet.label] = counts["events_waiting"].get(outlet.label, 0) + outlet.waiting
    return counts


def families(of: Mapping[str, Mapping[str, int]]) -> Iterable[Metric]:
    """These counts as Prometheus families."""
    events = CounterMetricFamily(
        "tocsin_events",
        "Alarms as events, by target and outcome; repeated: sent by another replica; failed: attempts.",
        labels=["target", "outcome"],
    )
    waiting = GaugeMetricFamily(
        "tocsin_events_waiting_bytes", "Bytes of events that are not delivered yet.", labels=["target"]
    )
    for key, count in of.get("events", {}).items():
        events.add_metric(key.split(), count)
    for label, size in of.get("events_waiting", {}).items():
        waiting.add_metric([label], size)
    yield from (events, waiting)
