"""What the figures are held to: ratios to Envoy in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.compiled import kinds, named
from benchmarks.dataplane.load import Table
from benchmarks.report import Check, at_most

CPU_UNSCORED = {"1x1": 0.7, "4x8": 0.5, "16x16": 0.5}
CPU_SCORED = {"1x1": 1.3, "4x8": 0.8, "16x16": 0.5}
CPU_ENFORCED = {"4x8": 0.6}
LATENCY_1X1 = 0.7
# Of Envoy's CPU, compiled: large responses, by mode; one call at a time; wide windows; TLS.
CPU_1_MB = {"observe": 1.0, "scored observe": 1.0, "scored annotate": 1.0, "scored enforce": 1.5}
CPU_100_KB, CPU_1X1, CPU_WIDE, CPU_TLS = 0.8, 0.8, 0.7, 1.0
WORKERS = 1.1  # times one worker's CPU, a request of two
STREAMED = {"observe": 1.2, "scored observe": 5.0}  # us a message, compiled
CHANNEL = 60.0  # us of CPU that a guarded channel adds to a call
ALARM = 25.0  # us of CPU that an alarm takes: metrics with an exemplar, an event, a span
P99 = 2_000.0  # us that a tail under load may be longer than Envoy's
TELLING, ALARMED = 5.0, 0.05  # us a response; a share of them that alarms


def told_us(more: dict[str, float], share: float) -> float:
    """CPU that reporting adds to a response when this share of responses alarms (us)."""
    return (1 - share) * more["safe"] + share * more["alarmed"]


def checks(results: Table, where: str = "") -> list[Check]:
    """CPU and added latency in every shape, and the tails under load."""
    envoy, direct = results["envoy"], results["direct"]
    outcomes = []

    def cpu(name: str, limits: dict[str, float]) -> None:
        for shape, limit in limits.items():
            ratio = results[name][shape].cpu_us / envoy[shape].cpu_us
            outcomes.append(at_most(f"{where}{name} {shape}: CPU of Envoy's", ratio, limit))

    for compiled in kinds():
        cpu(named("observe", compiled), CPU_UNSCORED)
        cpu(named("annotate", compiled), CPU_UNSCORED)
        cpu(named("enforce", compiled), CPU_ENFORCED)
        cpu(named("scored annotate", compiled), CPU_SCORED)
    for name in [named(mode, compiled) for compiled in kinds() for mode in ("observe", "annotate")]:
        added = results[name]["1x1"].latency_us - direct["1x1"].latency_us
        envoys = envoy["1x1"].latency_us - direct["1x1"].latency_us
        outcomes.append(at_most(f"{where}{name} 1x1: added latency of Envoy's", added / envoys, LATENCY_1X1))
    judged = {name: {shape: results[name][shape] for shape in ("4x8", "16x16")} for name in results}
    return outcomes + tail_checks(judged, ["scored annotate", "scored enforce"], where)


def tail_checks(results: Table, names: Sequence[str], where: str = "") -> list[Check]:
    """How much longer the slowest of a hundred wait than Envoy's."""
    outcomes = []
    for name in [named(mode, compiled) for compiled in kinds() for mode in names]:
        for shape, figures in results[name].items():
            longer = figures.p99_us - results["envoy"][shape].p99_us
            outcomes.append(at_most(f"{where}{name} {shape}: p99 beyond Envoy's, us", longer, P99))
    return outcomes


def wide_checks(results: Table) -> list[Check]:
    """The same with wide windows, where Envoy is cheaper."""
    name = named("scored annotate", kinds()[-1])
    ratio = results[name]["4x8"].cpu_us / results["envoy"]["4x8"].cpu_us
    limit = at_most(f"wide windows: {name} 4x8: CPU of Envoy's", ratio, CPU_WIDE)
    return [*checks(results, "wide windows: "), limit]


def first_checks(results: Table) -> list[Check]:
    """The first table: all shapes, and one call at a time."""
    name = named("scored annotate", kinds()[-1])
    ratio = results[name]["1x1"].cpu_us / results["envoy"]["1x1"].cpu_us
    return [*checks(results), at_most(f"{name} 1x1: CPU of Envoy's, one call at a time", ratio, CPU_1X1)]


def size_checks(results: Table) -> list[Check]:
    """Large responses, beside Envoy."""
    outcomes = []
    for compiled in kinds():
        for mode, limit in CPU_1_MB.items():
            for column, most in (("100 KB", CPU_100_KB), ("1 MB", limit)):
                name = named(mode, compiled)
                ratio = results[name][column].cpu_us / results["envoy"][column].cpu_us
                outcomes.append(at_most(f"{name}, {column}: CPU of Envoy's", ratio, most))
    return outcomes


def stream_checks(results: Table) -> list[Check]:
    """Streams, by the message."""
    (column,) = results["envoy"]
    messages = int(column.partition(" ")[0].replace(",", ""))
    return [
        at_most(f"{name}: CPU a message of a stream, us", results[name][column].cpu_us / messages, limit)
        for compiled in kinds()
        for mode, limit in STREAMED.items()
        for name in [named(mode, compiled)]
    ]


def tls_checks(results: Table) -> list[Check]:
    """TLS towards callers, beside Envoy."""
    envoy = results["envoy, TLS"]["4x8"].cpu_us
    return [
        at_most(f"{name}: CPU of Envoy's", row["4x8"].cpu_us / envoy, CPU_TLS)
        for name, row in results.items()
        if name not in ("envoy, TLS", "nginx, TLS")
    ]


def worker_checks(results: Table) -> list[Check]:
    """Two processes beside one."""
    outcomes = []
    for compiled in kinds():
        single, double = (results[named(f"scored annotate, {n} workers", compiled)]["16x16"].cpu_us for n in (1, 2))
        name = named("two workers", compiled)
        outcomes.append(at_most(f"{name}: CPU a request, of one worker's", double / single, WORKERS))
    return outcomes


def load_checks(results: Table) -> list[Check]:
    """Tails where all hops are given the same."""
    return tail_checks(results, ["scored annotate", "scored enforce"], "at the same load: ")


def telling_checks(more: dict[str, dict[str, float]]) -> list[Check]:
    """What reporting costs, by how many responses alarm; and an alarm by itself."""
    outcomes = []
    for kind, us in more.items():
        outcomes += [
            at_most(f"telling, {kind}, {share:.0%} alarmed: CPU a response, us", told_us(us, share), TELLING)
            for share in (0.0, ALARMED)
        ]
        outcomes.append(at_most(f"an alarm with metrics, event and span, {kind}: CPU, us", us["alarmed"], ALARM))
    return outcomes


def channel_checks(channels: dict[str, dict[str, float]]) -> list[Check]:
    """What a guarded channel adds to a call, by kind of channel and build."""
    return [
        at_most(f"guarded {kind} channel: CPU added to a call, us", row["added"], CHANNEL)
        for kind, row in channels.items()
    ]


CHECKS: dict[str, Callable[[Table], list[Check]]] = {
    "hops": first_checks,
    "wide windows": wide_checks,
    "same load": load_checks,
    "sizes": size_checks,
    "streams": stream_checks,
    "tls": tls_checks,
    "workers": worker_checks,
    "telling": lambda results: [],
}
