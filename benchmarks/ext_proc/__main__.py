"""Envoy alone, with Tocsin as its external processor, and with the same judge in a processor on grpc.aio.

One run, interleaved, medians over rounds; CPU of Envoy and of the processor apart. The upstream is nghttpd, the load
generator h2load; the response is an inference with 10 probabilities, 10 logits and a 64-dimensional embedding, scored
by four detectors. Both processors stand behind the filter that `tocsin attach` prints; `hold` is enforce with BUFFERED.
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
from benchmarks.dataplane.hops import Hop, _start, cpu_ns, envoy, free_port, missing, start_upstream
from benchmarks.dataplane.load import Shape, load
from benchmarks.dataplane.messages import PATH, WIDTHS, make_bundle, request, response, traffic
from benchmarks.harness.envoy import bootstrap
from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin.configuration.config import Config
from tocsin.ext_proc.attach import attached
from tocsin.grpc_wire.deframer import framed
from tocsin.judgement.guard import Guard

SHAPES = {"4x8": Shape(4, 8, 6_000), "16x16": Shape(16, 16, 8_000)}
MODES = {"observe": "observe", "annotate": "annotate", "hold": "enforce"}
REFERENCE = "grpc.aio"
SHARE = 0.2  # of the reference's CPU that ours may take
MOST_US = 90.0  # of the compiled processor's CPU for a response, at 4x8


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
    options = arguments(__doc__ or "", rounds={"type": int, "default": 3, "help": "how often each way is measured"})
    if lacking := missing():
        raise SystemExit(f"this benchmark needs programs that are not installed: {lacking}")
    with tempfile.TemporaryDirectory(prefix="tocsin-ext-proc-") as folder:
        work = Path(folder)
        started: list[subprocess.Popen[bytes]] = []
        try:
            table = measure(work, options.rounds, started)
        finally:
            for process in started:
                process.kill()
                process.wait()
    show(table)
    facts = {shape: {name: row._asdict() for name, row in rows.items()} for shape, rows in table.items()}
    finish(facts, checks(table), options.json)


def measure(work: Path, rounds: int, started: list[subprocess.Popen[bytes]]) -> dict[str, dict[str, Row]]:
    """Measure every way in every shape, interleaved; the median of each figure."""
    observations = traffic(1_000)
    make_bundle(observations, work / "bench.tocsin")
    (work / "request.bin").write_bytes(request())
    upstream = start_upstream(work, {PATH: framed(response(observations, 0))}, window=24)
    assert upstream.process is not None
    started.append(upstream.process)
    ways = [Way("alone", "", start_envoy(work, "alone", upstream.port, [], [], started), None)]
    for label, mode in MODES.items():
        for kind in (*("tocsin, compiled" if compiled else "tocsin" for compiled in kinds()), REFERENCE):
            ways.append(start(work, label, mode, kind, upstream.port, started))
    runs: dict[str, dict[str, list[Row]]] = {shape: {way.name: [] for way in ways} for shape in SHAPES}
    for turn in range(rounds + 1):  # the first warms up
        for shape, load_shape in SHAPES.items():
            for way in ways:
                row = run(way, work / "request.bin", load_shape if turn else load_shape._replace(requests=1_000))
                if turn:
                    runs[shape][way.name].append(row)
    return {shape: {name: _median(rows) for name, rows in of.items()} for shape, of in runs.items()}


def start(work: Path, label: str, mode: str, kind: str, upstream: int, started: list[subprocess.Popen[bytes]]) -> Way:
    """A processor of one kind in one mode, and an Envoy that asks it."""
    port = free_port()
    signals = {name: f"response.outputs.{name}" for name in WIDTHS}
    content = {
        "ext_proc": f"127.0.0.1:{port}", "mode": mode, "admin": None, "metrics": f"127.0.0.1:{free_port()}",
        "scoring_budget": "1s", "models": {"bench": {"bundle": str(work / "bench.tocsin"), "signals": signals}},
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
    if label == "hold":
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


def run(way: Way, body: Path, shape: Shape) -> Row:
    """Drive one way; the CPU of Envoy and of the processor."""
    before = cpu_ns(way.processor.pid) if way.processor is not None else 0
    figures = load(way.envoy, PATH, body, shape)
    used = cpu_ns(way.processor.pid) - before if way.processor is not None else 0
    processor_us = used / 1e3 / shape.requests
    return Row(figures.cpu_us, processor_us, figures.latency_us, figures.p99_us, figures.requests_per_s)


def _median(rows: list[Row]) -> Row:
    return Row(*(sorted(column)[len(column) // 2] for column in zip(*rows, strict=True)))


def show(table: dict[str, dict[str, Row]]) -> None:
    """Print a table for each shape."""
    for shape, rows in table.items():
        columns = ("way", "Envoy us", "processor us", "mean us", "p99 us", "requests/s")
        shown = rich.table.Table(*columns, title=f"{shape}: CPU a request, latency, throughput")
        for name, row in rows.items():
            shown.add_row(name, *(f"{value:,.0f}" for value in row))
        console.print(shown)


def checks(table: dict[str, dict[str, Row]]) -> list[Check]:
    """Compare the CPU of Tocsin's processor with that of the reference, and with what it may take."""
    results = []
    for shape, rows in table.items():
        for label in ("annotate", "hold"):
            reference = rows[f"{label}, {REFERENCE}"].processor_us
            for name, row in rows.items():
                if name.startswith(f"{label}, tocsin"):
                    results.append(at_most(f"{shape}: {name}, of grpc.aio's CPU", row.processor_us / reference, SHARE))
                if name == f"{label}, tocsin, compiled" and shape == "4x8":
                    results.append(at_most(f"{shape}: {name}, us", row.processor_us, MOST_US))
    return results


if __name__ == "__main__":
    main()
