"""The relay beside Envoy, nginx, a proxy on grpc.aio and no hop at all: CPU, latency, throughput.

One run, interleaved, medians over rounds. The upstream is nghttpd, the load generator h2load; a request is an image of
28x28 FP32 (3 KB), the response an inference with 10 probabilities, 10 logits and a 64-dimensional embedding. Scored
rows judge every response: four detectors in one graph, joint p-value, metrics. Then the same with wide windows, sizes,
streams, TLS and workers.

nghttpd takes 64 KB of requests a connection at a time, as HTTP/2 begins, and tells of new room now and then. Sixteen
calls at once wait for that, some much longer than others, with no hop at all too. With wide windows nobody waits for
the upstream's leave.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich.table

from benchmarks.dataplane import costs
from benchmarks.dataplane.bench import Bench
from benchmarks.dataplane.breakdown import breakdown
from benchmarks.dataplane.channels import added
from benchmarks.dataplane.hops import missing
from benchmarks.dataplane.load import Figures, Table
from benchmarks.dataplane.targets import CHECKS, channel_checks, telling_checks
from benchmarks.report import arguments, console, finish

TABLES: dict[str, Callable[[Bench], Table]] = {
    "hops": Bench.shapes,
    "wide windows": Bench.wide,
    "same load": Bench.same_load,
    "sizes": Bench.sizes,
    "streams": Bench.streams,
    "tls": Bench.tls,
    "workers": Bench.workers,
    "telling": Bench.telling,
}
APART = ("channels", "costs")  # measured without the other tables' hops


def main() -> None:
    options = arguments(
        __doc__ or "",
        rounds={"type": int, "default": 5, "help": "how often each hop is measured in each shape"},
        quick={"action": "store_true", "help": "only the first table"},
        only={"nargs": "*", "choices": [*TABLES, *APART], "help": "these tables, besides the first row of hops"},
    )
    wanted = options.only or (["hops"] if options.quick else [*TABLES, *APART])
    if lacking := missing():
        raise SystemExit(f"this benchmark needs programs that are not installed: {lacking}")
    with tempfile.TemporaryDirectory(prefix="tocsin-dataplane-") as folder:
        bench = Bench(Path(folder), options.rounds)
        try:
            bench.start_hops()
            tables = {name: measure(bench) for name, measure in TABLES.items() if name in wanted}
        finally:
            bench.end()
        config = Path(folder) / "scored-annotate.yaml"
        spent = breakdown(config, bench.observations)
        channels = added(config) if "channels" in wanted else {}
        cells = costs.measure(Path(folder), options.rounds) if "costs" in wanted else []
    for name, table in tables.items():
        print_table(name, table)
    print_spent(spent)
    facts: dict[str, Any] = {
        name: {hop: {k: v._asdict() for k, v in row.items()} for hop, row in t.items()} for name, t in tables.items()
    }
    results = [check for name, table in tables.items() for check in CHECKS[name](table)]
    if "telling" in tables:
        results += telling_checks(bench.telling_us)
    for kind, row in channels.items():
        console.print(f"a call through a {kind} channel: {row['plain']:.0f} us of CPU, guarded {row['guarded']:.0f} us")
    results += channel_checks(channels)
    facts |= {"spent_us": spent, "telling_us": bench.telling_us, "channels": channels}
    if cells:
        facts["costs"], more = costs.report(cells)
        results += more
    finish(facts, results, options.json)


def print_table(name: str, results: Table) -> None:
    columns = list(next(iter(results.values())))
    table = rich.table.Table(
        "hop", *columns, title=f"{name}: CPU of the hop a request / mean latency / p99 / requests a second"
    )
    for hop, row in results.items():
        table.add_row(hop, *(shown(row[column]) if column in row else "" for column in columns))
    console.print(table)


def shown(f: Figures) -> str:
    return f"{f.cpu_us:,.1f} us / {f.latency_us:,.0f} / {f.p99_us:,.0f} us / {f.requests_per_s:,.0f}"


def print_spent(spent: dict[str, dict[str, float]]) -> None:
    steps = list(next(iter(spent.values())))
    table = rich.table.Table("step", *spent, title="What judging a response is spent on, CPU us a response")
    for step in steps:
        table.add_row(step, *(f"{column[step]:.1f}" for column in spent.values()))
    table.add_row("together", *(f"{sum(column.values()):.1f}" for column in spent.values()))
    console.print(table)
    console.print(
        "Frames are what the unscored rows above cost; the rest of a scored row is Python around these steps."
    )


if __name__ == "__main__":
    main()
