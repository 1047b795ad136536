"""The relay's own health: what it counts, as plain data that can be added up over processes, and as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tocsin.relay.context import RelayContext

Facts = dict[str, dict[str, int]]  # metric -> label value -> number; label "" where there is none

NOT_UNDERSTOOD = ("frame", "headers", "malformed", "not_grpc", "not_http2", "upgraded", "verdict")
CUT = ("shortened", "left_out")
LIMITED = (
    "connections", "streams", "resets", "controls", "headers", "unreadable", "idle", "memory", "unread", "unguarded",
    "handshake", "descriptors",
)  # fmt: skip

_GAUGES = {
    "connections": "Client connections that are open.",
    "streams": "Calls that are under way.",
    "kept_bytes": "Bytes of messages that are unfinished or held.",
    "waiting": "Responses that wait for the scorer.",
}
_UNREADY = "Whether new calls are not welcome, by reason: 1 makes /readyz answer 503."
_COUNTERS = {
    "calls": ("guarded", "Calls begun, by whether their method is guarded."),
    "not_understood": ("what", "What was forwarded or refused unread."),
    "limited": ("limit", "What a limit has refused."),
    "upstream_failures": ("", "Upstream connections that failed."),
    "upstream_goaways": ("", "GOAWAY frames from the upstream."),
    "accepted_verdicts": ("", "Verdicts of another Tocsin, nearer to the model, that were accepted."),
    "cut_verdicts": ("how", "Verdicts that were too large for the caller's limit on trailers."),
}


def facts(relay: RelayContext, waiting: int, unready: dict[str, int]) -> Facts:
    """What a relay has counted so far, and has open now; how many responses wait for the scorer, and why new calls are
    not welcome.
    """
    connections = list(relay.connections)
    return {
        "connections": {"": len(connections)},
        "streams": {"": sum(connection.open_streams for connection in connections)},
        "kept_bytes": {"": int(relay.config.max_memory) - relay.memory.remaining},
        "waiting": {"": waiting},
        "calls": {"false": relay.calls[0], "true": relay.calls[1]},
        "not_understood": {what: relay.not_understood[what] for what in NOT_UNDERSTOOD},
        "unready": unready,
        "limited": {what: relay.limited[what] for what in LIMITED},
        "upstream_failures": {"": relay.upstream_failures},
        "upstream_goaways": {"": relay.goaways},
        "accepted_verdicts": {"": relay.accepted},
        "cut_verdicts": {how: relay.cut_verdicts[how] for how in CUT},
    }


def summed_facts(several: Iterable[Facts]) -> Facts:
    """The facts of several relays as those of one."""
    total: Facts = {}
    for facts in several:
        for metric, by_label in facts.items():
            values = total.setdefault(metric, {})
            for label, number in by_label.items():
                values[label] = values.get(label, 0) + number
    return total


def lasting_facts(of: Facts) -> Facts:
    """What stays of the facts of a relay that has ended: what it counted."""
    return {metric: by_label for metric, by_label in of.items() if metric in (*_COUNTERS, "events", "otlp_exports")}


def families(of: Mapping[str, Mapping[str, int]]) -> Iterable[Metric]:
    """Facts as Prometheus families."""
    yield from gauge_families(of, _GAUGES, "tocsin_relay_")
    unready = GaugeMetricFamily("tocsin_relay_unready", _UNREADY, labels=["reason"])
    for reason, number in of.get("unready", {}).items():
        unready.add_metric([reason], number)
    yield unready
    yield from counter_families(of, _COUNTERS, "tocsin_relay_")


def gauge_families(of: Mapping[str, Mapping[str, int]], gauges: Mapping[str, str], prefix: str) -> Iterable[Metric]:
    """The facts named in `gauges` (name -> description), which have no label. `prefix` begins their metrics' names."""
    for name, description in gauges.items():
        gauge = GaugeMetricFamily(f"{prefix}{name}", description)
        gauge.add_metric([], of.get(name, {}).get("", 0))
        yield gauge


def counter_families(
    of: Mapping[str, Mapping[str, int]], counters: Mapping[str, tuple[str, str]], prefix: str
) -> Iterable[Metric]:
    """The facts named in `counters`: name -> label, "" where there is none, and description."""
    for name, (label, description) in counters.items():
        counter = CounterMetricFamily(f"{prefix}{name}", description, labels=[label] if label else [])
        for value, number in of.get(name, {"": 0}).items():
            counter.add_metric([value] if label else [], number)
        yield counter
