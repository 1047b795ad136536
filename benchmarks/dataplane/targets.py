"""What the figures are held to: ratios to Envoy in the same run."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.compiled import kinds, named
from benchmarks.dataplane.load import Table
from benchmarks.report import Check, at_most

CPU_UNSCORED = {"1x1": 0.7, "4x8": 0.5, "16x16": 0.5}
CPU_SCORED = {"1x1": 1.3, "4x8": 0.8, "16x16": 0.5}
CPU_ENFORCED = {"4x8": 0.6}
LATENCY_1X1 = 0.7
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
