"""The external processor's own counters, as plain data that can be added up over processes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from prometheus_client.metrics_core import Metric

from tocsin.ext_proc.context import ProcessorContext
from tocsin.ext_proc.hosts import ConnectionHost
from tocsin.ext_proc.misfits import LINES
from tocsin.relay.health import counter_families, gauge_families

NOT_UNDERSTOOD = ("frame", "message", "not_grpc", "not_http2", "verdict")
LIMITED = (
    "connections", "controls", "descriptors", "handshake", "headers", "idle", "memory", "message", "resets", "streams",
    "unguarded", "unread",
)  # fmt: skip
CUT = ("shortened", "left_out")
_GAUGES = {
    "ext_proc_connections": "Connections of Envoy's that are open.",
    "ext_proc_streams": "Exchanges that are under way.",
}
_COUNTERS = {
    "ext_proc_exchanges": ("guarded", "Exchanges begun, by whether their method is guarded."),
    "ext_proc_misfits": ("reason", "Exchanges that the filter's configuration keeps from being judged or held."),
    "ext_proc_abandoned": ("", "Exchanges that ended while Envoy waited for a reply: it was too late, or a peer left."),
    "ext_proc_not_understood": ("what", "What was passed or refused unread."),
    "ext_proc_limited": ("limit", "What a limit has refused."),
    "ext_proc_accepted_verdicts": ("", "Verdicts of another Tocsin, nearer to the model, that were accepted."),
    "ext_proc_cut_verdicts": ("how", "Verdicts that were too large for a response's trailers."),
}


def facts(context: ProcessorContext, connections: Collection[ConnectionHost]) -> dict[str, dict[str, int]]:
    """What a processor has counted so far, and how many connections and exchanges are open."""
    return {
        "ext_proc_connections": {"": len(connections)},
        "ext_proc_streams": {"": sum(connection.open_streams for connection in connections)},
        "ext_proc_exchanges": {"false": context.exchanges[0], "true": context.exchanges[1]},
        "ext_proc_misfits": {reason: context.misfits.counts[reason] for reason in LINES},
        "ext_proc_abandoned": {"": context.abandoned},
        "ext_proc_not_understood": {what: context.not_understood[what] for what in NOT_UNDERSTOOD},
        "ext_proc_limited": {limit: context.limited[limit] for limit in LIMITED},
        "ext_proc_accepted_verdicts": {"": context.accepted},
        "ext_proc_cut_verdicts": {how: context.cut_verdicts[how] for how in CUT},
    }


def families(of: Mapping[str, Mapping[str, int]]) -> Iterable[Metric]:
    """These counters as Prometheus families; none where no processor is served."""
    if "ext_proc_connections" not in of:
        return
    yield from gauge_families(of, _GAUGES, "tocsin_")
    yield from counter_families(of, _COUNTERS, "tocsin_")


COUNTED = tuple(_COUNTERS)  # what stays of a processor that has ended
