"""Envoy alone, with Tocsin as its external processor, and with the same judge in a processor on grpc.aio.

One run, interleaved, medians over rounds; CPU of Envoy and of the processor apart; the load generator is h2load. Of
gRPC, the upstream is nghttpd, and the response an inference with 10 probabilities, 10 logits and a 64-dimensional
embedding, scored by four detectors. Of HTTP, it is nginx, and the response a completion of OpenAI's API of 4 KB with
log-probabilities, or a stream of 200 events each of which is judged. nginx sends many events at a time. All processors
stand behind the filter that `tocsin attach` prints; of gRPC, `hold` is enforce with BUFFERED.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import rich.table
import yaml

from benchmarks.compiled import environment, kinds
from benchmarks.dataplane.hops import Hop, _start, cpu_ns, envoy, free_port, missing
from benchmarks.dataplane.load import Shape, wait_until_idle
from benchmarks.ext_proc.traffics import TRAFFICS, Traffic
from benchmarks.harness.envoy import bootstrap
from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin.configuration.config import Config
from tocsin.ext_proc.attach import attached
from tocsin.judgement.guard import Guard

MODES = {"observe": "observe", "annotate": "annotate", "hold": "enforce"}
REFERENCE = "grpc.aio"
SHARE = 0.2  # of the reference's CPU that ours may take
MOST_US = 90.0  # of the compiled processor's CPU for a response, at 4x8
EVENT_US = 8.0  # and for an event
SHARED = ("4x8", "16x16")  # shapes in which that is compared: with one call at a time, waiting costs most
Rows = dict[str, "Row"]


class Row(NamedTuple):
    """Of one run: microseconds a request, and requests a second."""

    envoy_us: float
    processor_us: float
    latency_us: float
    p99_us: float
    requests_per_s: float


class Way(NamedTuple):
    """An Envoy, and the processor that it asks."""

    name: str
    mode: str
    envoy: Hop
    processor: subprocess.Popen[bytes] | None


def main() -> None:
    """Measure, print and check."""
    options = arguments(
        __doc__ or "",
        rounds={"type": int, "default": 3, "help": "how often each way is measured"},
        only={"nargs": "*", "default": [traffic.name for traffic in TRAFFICS], "help": "traffic, by name"},
    )
    if lacking := missing():
        raise SystemExit(f"this benchmark needs programs that are not installed: {lacking}")
    facts, compared = {}, list[Check]()
    for traffic in TRAFFICS:
        if traffic.name not in options.only:
            continue
        with tempfile.TemporaryDirectory(prefix="tocsin-ext-proc-") as folder:
            started: list[subprocess.Popen[bytes]] = []
            try:
                table = measure(traffic, Path(folder), options.rounds, started)
            finally:
                for process in started:
                    process.terminate()  # nginx ends its workers then
                    process.wait(60)
        show(traffic, table)
        compared += checks(traffic, table)
        facts[traffic.name] = {shape: {name: row._asdict() for name, row in of.items()} for shape, of in table.items()}
    finish(facts, compared, options.json)


def measure(traffic: Traffic, work: Path, rounds: int, started: list[subprocess.Popen[bytes]]) -> dict[str, Rows]:
    """Measure every way in every shape, interleaved; the median of each figure."""
    upstream = traffic.start(work)
    assert upstream.process is not None
    started.append(upstream.process)
    ways = [Way("alone", "", start_envoy(work, "alone", upstream.port, [], [], started), None)]
    for label, mode in MODES.items():
        for kind in (*("tocsin, compiled" if compiled else "tocsin" for compiled in kinds()), REFERENCE):
            ways.append(start(traffic, work, label, mode, kind, upstream.port, started))
    runs: dict[str, dict[str, list[Row]]] = {shape: {way.name: [] for way in ways} for shape in traffic.shapes}
    for turn in range(rounds + 1):  # the first warms up
        for shape, load_shape in traffic.shapes.items():
            for way in ways:
                fewer = load_shape._replace(requests=max(load_shape.requests // 6, load_shape.connections))
                row = run(traffic, way, work / "request", load_shape if turn else fewer)
                if turn:
                    runs[shape][way.name].append(row)
    return {shape: {name: _median(rows) for name, rows in of.items()} for shape, of in runs.items()}


def start(
    traffic: Traffic,
    work: Path,
    label: str,
    mode: str,
    kind: str,
    upstream: int,
    started: list[subprocess.Popen[bytes]],
) -> Way:
    """A processor of one kind in one mode, and an Envoy that asks it."""
    port = free_port()
    model = {**traffic.model, "bundle": traffic.model["bundle"].format(work)}
    content = {
        "ext_proc": f"127.0.0.1:{port}", "mode": mode, "admin": None, "metrics": f"127.0.0.1:{free_port()}",
        "scoring_budget": "1s", "models": {"m": model},
    }  # fmt: skip
    name = f"{label}, {kind}"
    file = work / f"{name.replace(', ', '-')}.yaml"
    file.write_text(yaml.safe_dump(content))
    if kind == REFERENCE:
        command = [sys.executable, "-m", "benchmarks.ext_proc.reference", str(port), str(file)]
        processor = _start(name, port, command, work)
    else:
        command = [sys.executable, "-m", "tocsin", "serve", "-c", str(file)]
        processor = _start(name, port, command, work, environment("compiled" in kind))
    assert processor.process is not None
    started.append(processor.process)
    config = Config.load(file)
    assert config.ext_proc is not None
    parts = attached(config, Guard.open(config), config.ext_proc)
    modes = parts["http_filters"][0]["typed_config"]["processing_mode"]
    if label == "hold" and traffic.buffers:
        modes["response_body_mode"] = "BUFFERED"
    hop = start_envoy(work, name, upstream, parts["http_filters"], parts["clusters"], started)
    return Way(name, mode, hop, processor.process)


def start_envoy(
    work: Path,
    name: str,
    upstream: int,
    filters: list[Any],
    clusters: list[Any],
    started: list[subprocess.Popen[bytes]],
) -> Hop:
    """Envoy with one worker."""
    port = free_port()
    config = work / f"envoy-{name.replace(', ', '-')}.yaml"
    config.write_text(yaml.safe_dump(bootstrap(port, free_port(), f"127.0.0.1:{upstream}", filters, clusters)))
    command = [str(envoy()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    hop = _start(f"envoy {name}", port, command, work)
    assert hop.process is not None
    started.append(hop.process)
    return hop


def run(traffic: Traffic, way: Way, body: Path, shape: Shape) -> Row:
    """Drive one way; the CPU of Envoy and of the processor, which may still judge when all is answered."""
    pid = way.processor.pid if way.processor is not None else 0

    def used_us() -> float:
        return cpu_ns(pid) / 1e3 if pid else 0.0

    before = used_us()
    figures = traffic.drive(way.envoy, traffic.path, body, shape)
    wait_until_idle(used_us)
    processor_us = (used_us() - before) / shape.requests
    return Row(figures.cpu_us, processor_us, figures.latency_us, figures.p99_us, figures.requests_per_s)


def _median(rows: list[Row]) -> Row:
    return Row(*(sorted(column)[len(column) // 2] for column in zip(*rows, strict=True)))


def show(traffic: Traffic, table: dict[str, Rows]) -> None:
    """Print a table for each shape."""
    for shape, rows in table.items():
        columns = ("way", "Envoy us", "processor us", "mean us", "p99 us", "requests/s")
        title = f"{traffic.name}, {shape}: CPU a request, latency, throughput"
        shown = rich.table.Table(*columns, title=title)
        for name, row in rows.items():
            shown.add_row(name, *(f"{value:,.0f}" for value in row))
        console.print(shown)


def checks(traffic: Traffic, table: dict[str, Rows]) -> list[Check]:
    """Compare the CPU of Tocsin's processor with that of the reference, and with what it may take."""
    results = []
    for shape in SHARED:
        rows = table[shape]
        for label in ("annotate", "hold"):
            reference = rows[f"{label}, {REFERENCE}"].processor_us
            for name, row in rows.items():
                if name.startswith(f"{label}, tocsin"):
                    share, about = row.processor_us / reference, f"{traffic.name}, {shape}: {name}"
                    results.append(at_most(f"{about}, of grpc.aio's CPU", share, SHARE))
                if name == f"{label}, tocsin, compiled" and shape == "4x8" and traffic.events == 1:
                    results.append(at_most(f"{about}, us", row.processor_us, MOST_US))
                if name == f"{label}, tocsin, compiled" and traffic.events > 1:
                    results.append(at_most(f"{about}, us an event", row.processor_us / traffic.events, EVENT_US))
    return results


if __name__ == "__main__":
    main()
