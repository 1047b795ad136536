"""Ten thousand replicas at a million responses a second: what Redis carries, how soon a broken promise shows to all of
them and to one alone, how often a kept one cries wolf, and what Prometheus has to scrape.

Counts are exchanged through a real Redis by the code that a relay uses; traffic is drawn, not served.
"""

from __future__ import annotations

import statistics
import time
from math import log
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from rich.table import Table

from benchmarks.harness.parts import safe_traffic
from benchmarks.harness.redis_server import redis_server
from benchmarks.report import arguments, at_most, console, finish
from benchmarks.scrape import ACCEPT, guarded, traffic
from tocsin.configuration.state import StateConfig
from tocsin.sinks.evidence import Evidence
from tocsin.sinks.exposition import Exposition
from tocsin.state.opening import EXCHANGE_INTERVAL
from tocsin.state.redis_connection import RedisConnection
from tocsin.state.redis_counts import SharedCounts
from tocsin_calibration import FalseAlarmLaw, Watch, calibrate, promise_test

ALPHA, CALIBRATED, DELTA = 0.05, 10_000, 0.01
EVERY = 15.0  # seconds between scrapes
MULTIPLES = (1.2, 1.5, 2.0, 3.0)
LONGEST = 3_600.0  # seconds that are simulated


def main() -> None:
    options = arguments(
        __doc__ or "",
        replicas={"type": int, "default": 10_000, "help": "replicas"},
        rate={"type": float, "default": 1e6, "help": "responses a second, of all of them"},
        fleets={"type": int, "default": 100, "help": "fleets that keep the promise, simulated for an hour each"},
    )
    redis_round, redis_cpu, wrong = exchanged(options.replicas)
    title = "Seconds until evidence pages (median)"
    table = Table("alarms, of those promised", "all together", "one alone", title=title)
    delays: dict[str, Any] = {}
    for multiple in MULTIPLES:
        together = delay(options.rate, multiple)
        alone = delay(options.rate / options.replicas, multiple)
        delays[str(multiple)] = {"together": together, "alone": alone}
        table.add_row(f"{multiple:g} times", shown(together), shown(alone))
    console.print(table)
    wolf = crying(options.rate, options.fleets)
    seconds, packed, lines = scraped()
    needed = options.replicas / EXCHANGE_INTERVAL
    console.print(
        f"Redis: {options.replicas / redis_round:,.0f} reports a second, one after the other; it works on each for "
        f"{1e6 * redis_cpu:.0f} us; {options.replicas:,} replicas make {needed:,.0f} a second and model: "
        f"{needed * redis_cpu:.0%} of a processor"
    )
    console.print(f"kept promises that ever paged in an hour: {wolf:,} of {options.fleets:,}; Ville allows {DELTA:.0%}")
    console.print(
        f"a replica's scrape: {1e3 * seconds:.1f} ms, {packed:,} bytes packed, {lines:,} samples; "
        f"{options.replicas:,} replicas every {EVERY:.0f} s: {options.replicas * lines / EVERY:,.0f} samples and "
        f"{options.replicas * packed / EVERY / 1e6:.1f} MB a second"
    )
    checks = [
        at_most("replicas that know another sum than what was counted", wrong, 0),
        at_most("a round of reports, over the time between two", redis_round / EXCHANGE_INTERVAL, 1.0),
        at_most("kept promises that paged, over the share allowed", wolf / options.fleets / DELTA, 1.0),
        at_most("twice the alarms: seconds until all together page", delays["2.0"]["together"] or LONGEST, 60.0),
    ]
    results = {
        "round_seconds": redis_round,
        "redis_cpu_us": 1e6 * redis_cpu,
        "delays": delays,
        "wolf": wolf,
        "scrape_seconds": seconds,
        "scrape_bytes": packed,
        "samples": lines,
    }
    finish(results, checks, options.json)


def exchanged(replicas: int) -> tuple[float, float, int]:
    """Seconds that a round of reports takes, processor seconds that Redis works on one, and how many replicas then know
    another sum than what was counted.
    """
    promise = calibrate(np.random.default_rng(0).normal(size=(3_000, 2)))
    counts = len(Evidence(promise, 1_000, fixed=True).counts())
    draw, rounds, times = np.random.default_rng(1), 3, []
    with redis_server() as server:
        connection = RedisConnection(StateConfig(redis=server.url, timeout="10s"))
        shared = [SharedCounts(connection, "fleet") for _ in range(replicas)]
        counted = np.zeros((replicas, counts), int)
        received = np.zeros((replicas, counts), int)
        for number in range(rounds + 1):
            if number < rounds:
                counted += draw.poisson(3, counted.shape)
            started = time.perf_counter()
            for at, counts_of_replica in enumerate(shared):
                more = counts_of_replica.exchange({"digits": (counted[at] + received[at]).tolist()})
                if more:
                    received[at] += more["digits"]
            times.append(time.perf_counter() - started)
        connection.close()
        cpu = server.cpu / replicas / len(times)
    return statistics.median(times), cpu, int((counted + received != counted.sum(axis=0)).any(axis=1).sum())


def delay(rate: float, multiple: float, times: int = 15) -> float | None:
    """Seconds until evidence pages at so many responses a second, half the time; None where it does not in an hour."""
    law, delays = FalseAlarmLaw.at(CALIBRATED, ALPHA), []
    for seed in range(times):
        draw = np.random.default_rng([2, seed])
        watch = Watch(promise_test(law))
        alarms = min(1.0, multiple * draw.beta(law.n + 1 - law.k, law.k))
        delays.append(paged(watch, draw, rate, alarms, LONGEST))
    ordered = sorted(delay if delay is not None else np.inf for delay in delays)
    middle = ordered[len(ordered) // 2]
    return None if middle == np.inf else float(middle)


def paged(watch: Watch, draw: np.random.Generator, rate: float, alarms: float, seconds: float) -> float | None:
    """The time at which evidence pages, checked after every exchange of counts."""
    now = 0.0
    while now < seconds:
        now += EXCHANGE_INTERVAL
        n = int(draw.poisson(rate * EXCHANGE_INTERVAL))
        alarmed = int(draw.binomial(n, alarms))
        watch.add((alarmed, n - alarmed))
        if watch.log_evidence() > log(1 / DELTA):
            return now
    return None


def crying(rate: float, fleets: int) -> int:
    """How many fleets page although they keep their promise, the luck of their calibration included."""
    law, cried = FalseAlarmLaw.at(CALIBRATED, ALPHA), 0
    for seed in range(fleets):
        draw = np.random.default_rng([3, seed])
        watch = Watch(promise_test(law))
        alarms = draw.beta(law.n + 1 - law.k, law.k)
        cried += paged(watch, draw, rate, float(alarms), LONGEST) is not None
    return cried


def scraped() -> tuple[float, int, int]:
    """Seconds, bytes and samples of one busy replica's scrape."""
    guard, sink = guarded(1)
    exposition = Exposition(sink, CollectorRegistry())
    times = []
    for _ in range(9):
        traffic(guard, safe_traffic(400), 30)
        started = time.perf_counter()
        _, packed = exposition.answer(ACCEPT, "gzip")
        times.append(time.perf_counter() - started)
    _, text = exposition.answer(ACCEPT, "")
    return statistics.median(times), len(packed), sum(not line.startswith(b"#") for line in text.splitlines())


def shown(seconds: float | None) -> str:
    return f"{seconds:,.0f}" if seconds is not None else f"not in {LONGEST:,.0f}"


if __name__ == "__main__":
    main()
