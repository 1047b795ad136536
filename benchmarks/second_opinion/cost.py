"""The relay's own CPU with second opinions on, beside the same relay without.

The response is a chat completion of 4 KB with log-probabilities from nginx, the load generator h2load over HTTP/1.1,
the judge a stand-in in this process. CPU is that of the relay's process with all of its threads, those that ask the
judge too. The ways take turns within each round, and are compared within it: by the median of the rounds' ratios,
with its interval by order statistics, and by the ratio of each way's least. Both are held to the same limit.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import binom

from benchmarks.compiled import kinds, named
from benchmarks.dataplane.hops import Hop, missing, start_relay
from benchmarks.dataplane.load import Shape, load_http1
from benchmarks.harness.chat import CHAT
from benchmarks.harness.judge_server import judge_server
from benchmarks.http_relay import start_model
from benchmarks.report import Check, at_most, console

SHAPE, WARM_UP = Shape(16, 16, 2_000), Shape(16, 16, 500)
LIMIT = 1.03  # times the CPU of the relay without second opinions
OFF, PER_CENT, EVERY = "off", "1% of the calls", "every call"
SHARES = {PER_CENT: 0.01, EVERY: 1.0}
CALLS_PER_MINUTE = 60


def cost(rounds: int) -> tuple[dict[str, Any], list[Check]]:
    """CPU of each way, measured in so many rounds. Raises SystemExit where a program is missing."""
    if lacking := missing():
        raise SystemExit(f"this benchmark needs programs that are not installed: {lacking}")
    started: list[Hop] = []
    with tempfile.TemporaryDirectory(prefix="tocsin-second-opinion-") as folder:
        try:
            costs, judged = measure(Path(folder), rounds, started)
        finally:
            for hop in started:
                if hop.process is not None:
                    hop.process.terminate()
                    hop.process.wait(60)
    paired = {name: _by_round(costs, name) for name in costs}
    ratios = {name: float(np.median(of_rounds)) for name, of_rounds in paired.items()}
    leasts = {name: min(values) / min(costs[_without(name)]) for name, values in costs.items()}
    table = Table(
        "second opinion", "CPU, us a request", "median", "of the relay without", "95% of the rounds' median",
        "of leasts", title="16x16: a completion of 4 KB",
    )  # fmt: skip
    for name, values in costs.items():
        low, high = _interval(paired[name])
        table.add_row(
            name, f"{min(values):.1f}", f"{median(values):.1f}", f"{ratios[name]:.3f}", f"{low:.3f} to {high:.3f}",
            f"{leasts[name]:.3f}",
        )  # fmt: skip
    console.print(table, f"the judge was asked {judged:,} times", sep="\n")
    checks = [
        at_most(f"{name}: {what}, of the relay without", of[name], LIMIT)
        for what, of in (("CPU", ratios), ("least CPU", leasts))
        for name in of
        if PER_CENT in name
    ]
    return {"cpu_us": costs, "ratios": ratios, "leasts": leasts, "judge_calls": judged}, checks


def measure(work: Path, rounds: int, started: list[Hop]) -> tuple[dict[str, list[float]], int]:
    """Microseconds of CPU a request of each way, round by round, and how often the judge was asked."""
    upstream, request = start_model(work)
    started.append(upstream)
    with judge_server(lambda prompt: {"5": 0.9, "1": 0.1}) as judge:
        for compiled in kinds():
            for name in (OFF, *SHARES):
                model = {"protocol": "openai", "bundle": f"{work}/bench.tocsin"}
                if name in SHARES:
                    model["second_opinion"] = {  # type: ignore[assignment]
                        "judge": {"url": judge.url, "model": "judge"}, "opinions": {"rating": {"kind": "rating"}},
                        "share": SHARES[name], "calls_per_minute": CALLS_PER_MINUTE,
                    }  # fmt: skip
                settings = f"  m: {json.dumps(model)}\n"
                label, more = named(name, compiled), "scoring_budget: 1s\n"
                file_name = label.replace("%", "")
                hop = start_relay(file_name, work, upstream.port, "annotate", settings, more, compiled=compiled)
                hop.name = label
                started.append(hop)
        costs: dict[str, list[float]] = {hop.name: [] for hop in started[1:]}
        for turn in range(rounds + 1):  # the first warms up
            relays = started[1:] if turn % 2 else started[:0:-1]
            for hop in relays:
                row = load_http1(hop, CHAT, request, SHAPE if turn else WARM_UP)
                if turn:
                    costs[hop.name].append(row.cpu_us)
        return costs, len(judge.prompts)


def _without(name: str) -> str:
    """The same build without second opinions."""
    return named(OFF, compiled=bool(name.partition(", ")[2]))


def _by_round(costs: dict[str, list[float]], name: str) -> list[float]:
    """A way's CPU, of that of the same build without second opinions, round by round."""
    return [value / without for value, without in zip(costs[name], costs[_without(name)], strict=True)]


def _interval(ratios: list[float]) -> tuple[float, float]:
    """Where the median of such ratios is, at 95%, by order statistics; all of them where there are fewer than six."""
    ordered, beyond = sorted(ratios), max(0, int(binom.ppf(0.025, len(ratios), 0.5)) - 1)
    return ordered[beyond], ordered[-1 - beyond]
