"""A model of the relay's cost, fitted to what is measured: responses of several sizes, rows, messages and detectors.

Coefficients are fitted by non-negative least squares on relative errors; each cell is then predicted from a fit without
it. What `tocsin.offline.relay_cost` has, scaled to this machine, is held against the same cells.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from scipy.optimize import nnls

from benchmarks.compiled import environment, kinds, named
from benchmarks.dataplane.hops import Hop, free_port, start_relay, start_upstream
from benchmarks.dataplane.load import Shape, load
from benchmarks.dataplane.messages import PATH, STREAM_PATH, WIDTHS, request, responses, stream, traffic
from benchmarks.report import Check, at_most, console
from tocsin.grpc_wire.deframer import framed
from tocsin.offline.relay_cost import (
    FITTED,
    MODES,
    UNSCORED,
    Coefficients,
    ResponseKind,
    machine_factor,
    reference_us,
)
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import (
    Detector,
    Energy,
    Entropy,
    GeneralisedEntropy,
    Mahalanobis,
    Margin,
    MaxLogit,
    MaxSoftmax,
    RandomNetworkDistillation,
    compile,
)

KILOBYTE = 1_000
LEFT_OUT, SHIPPED = 0.1, 0.25  # median relative errors: of cells that were not fitted, and of what is in the package
BUNDLES: dict[str, list[Detector]] = {
    "1 detector": [Entropy()],
    "4 detectors": [Entropy(), Energy(), Mahalanobis(), RandomNetworkDistillation(epochs=30)],
    "8 detectors": [
        Entropy(),
        Energy(),
        Mahalanobis(),
        RandomNetworkDistillation(epochs=30),
        MaxSoftmax(),
        MaxLogit(),
        Margin(),
        GeneralisedEntropy(),
    ],
}
MANY, ALONE, STREAMS = Shape(4, 8, 3_000), Shape(1, 1, 600), Shape(2, 2, 40)


class Kind(NamedTuple):
    """Responses that are measured: rows, bytes that nobody reads, messages, calls at a time."""

    name: str
    rows: int = 1
    padding: int = 0
    messages: int = 1
    shape: Shape = MANY


KINDS = (
    Kind("small"),
    Kind("one at a time", shape=ALONE),
    Kind("10 KB", padding=10_000),
    Kind("10 KB, one at a time", padding=10_000, shape=ALONE),
    Kind("60 KB", padding=60_000, shape=MANY._replace(requests=1_200)),
    Kind("8 rows", rows=8),
    Kind("64 rows", rows=64, shape=MANY._replace(requests=1_200)),
    Kind("20 messages", messages=20, shape=MANY._replace(requests=600)),
    Kind("100 messages", messages=100, shape=MANY._replace(requests=200)),
    Kind("400 messages", messages=400, shape=STREAMS),
)


class Cell(NamedTuple):
    """One measured figure: CPU a response, and what it is to be predicted from."""

    mode: str
    compiled: bool
    bundle: str
    kind: str
    traffic: ResponseKind
    scoring_us: float
    cpu_us: float


def measure(work: Path, rounds: int) -> list[Cell]:
    """Every kind of responses through each mode and build, with each bundle; interleaved, medians over rounds."""
    observations = traffic(1_000)
    for name, detectors in BUNDLES.items():
        scorer = compile(detectors, fit_on=observations.take(slice(0, 400)))
        promise = calibrate(scorer(observations.take(slice(400, None))), detectors=scorer.detectors)
        Bundle(scorer, promise, "bench").write(_path(work, name))
    (work / "request.bin").write_bytes(request())
    port = free_port()
    upstream = start_upstream(work, {PATH: b""}, port)
    hops: list[tuple[str, bool, str, Hop]] = []
    cells = []
    try:
        hops += [
            (mode, compiled, bundle, _relay(work, port, mode, compiled, bundle))
            for compiled in kinds()
            for mode in (UNSCORED, *MODES)
            for bundle in (BUNDLES if mode == "annotate" else ["4 detectors"])
        ]
        for kind in KINDS:
            upstream = _answering(upstream, work, port, kind)
            figures: dict[int, list[float]] = {}
            for turn in range(rounds + 1):
                for at, (*_, hop) in enumerate(hops):
                    shape = kind.shape if turn else kind.shape._replace(requests=max(8, kind.shape.requests // 4))
                    path = PATH if kind.messages == 1 else STREAM_PATH
                    measured = load(hop, path, work / "request.bin", shape, settles=kind.messages > 1)
                    if turn:
                        figures.setdefault(at, []).append(measured.cpu_us)
            for at, (mode, compiled, bundle, _) in enumerate(hops):
                of = _traffic(kind)
                spent = 0.0 if mode == UNSCORED else scoring_us(_path(work, bundle), of, compiled=compiled)
                cells.append(Cell(mode, compiled, bundle, kind.name, of, spent, statistics.median(figures[at])))
            console.print(f"{kind.name} measured")
    finally:
        for hop in [upstream, *(hop for *_, hop in hops)]:
            if hop.process is not None:
                hop.process.terminate()
                hop.process.wait()
    return cells


@cache
def scoring_us(bundle: Path, kind: ResponseKind, *, compiled: bool) -> float:
    """The detectors' own time for a response of that kind in a process of that build (us)."""
    program = (
        "import sys; from tocsin.offline.relay_cost import ResponseKind, scored_us; "
        "from tocsin_calibration import Bundle; scorer = Bundle.read(sys.argv[1]).scorer; scorer.warm(); "
        "print(scored_us(scorer, ResponseKind(float(sys.argv[2]), *map(int, sys.argv[3:]))))"
    )
    size, *counts = kind
    command = [sys.executable, "-c", program, str(bundle), str(size), *(str(int(count)) for count in counts)]
    done = subprocess.run(command, env=environment(compiled), capture_output=True, text=True, check=True)
    return float(done.stdout)


def _traffic(kind: Kind) -> ResponseKind:
    size = len(_content(kind)) / KILOBYTE
    return ResponseKind(size, kind.rows, kind.messages, one_at_a_time=kind.shape is ALONE)


def _content(kind: Kind) -> bytes:
    message = responses(traffic(1_000), kind.rows, padding=kind.padding)
    return framed(message) if kind.messages == 1 else stream(message, kind.messages)


def _answering(upstream: Hop, work: Path, port: int, kind: Kind) -> Hop:
    """The upstream started again with another answer."""
    assert upstream.process is not None
    upstream.process.kill()
    upstream.process.wait()
    return start_upstream(work, {PATH if kind.messages == 1 else STREAM_PATH: _content(kind)}, port)


def _path(work: Path, bundle: str) -> Path:
    return work / f"{bundle.partition(' ')[0]}.tocsin"


def _relay(work: Path, port: int, mode: str, compiled: bool, bundle: str) -> Hop:
    scored = "" if mode == UNSCORED else f"bundle: {_path(work, bundle)}, "
    signals = ", ".join(f"{name}: response.outputs.{name}" for name in WIDTHS)
    settings = f"  bench: {{{scored}signals: {{{signals}}}}}\n"
    name = named(f"costs {mode} {bundle}", compiled)
    return start_relay(
        name, work, port, "observe" if mode == UNSCORED else mode, settings, "scoring_budget: 1s\n", compiled=compiled
    )


def fit(cells: list[Cell]) -> Coefficients:
    """The coefficients of cells of one mode and build."""
    terms = range(len(Coefficients._fields))
    units = [Coefficients(*(float(at == term) for at in terms)) for term in terms]
    parts = np.array([[unit.us(cell.traffic) / cell.cpu_us for unit in units] for cell in cells])
    wanted = np.array([1 - cell.scoring_us / cell.cpu_us for cell in cells])
    return Coefficients(*(float(value) for value in nnls(parts, wanted)[0]))


def error(coefficients: Coefficients, cell: Cell, factor: float = 1.0) -> float:
    """By how much of what was measured a prediction is off; `factor` is this machine's."""
    return abs(factor * coefficients.us(cell.traffic) + cell.scoring_us - cell.cpu_us) / cell.cpu_us


def report(cells: list[Cell]) -> tuple[dict[str, Any], list[Check]]:
    """Print the coefficients and how far they are off."""
    table = Table(
        "mode", *(f"{term}, us" for term in Coefficients._fields), "median error", "largest", "shipped: median"
    )
    facts: dict[str, Any] = {"reference_us": reference_us(), "cells": [cell._asdict() for cell in cells]}
    factor = machine_factor()
    left_out: list[float] = []
    shipped: list[float] = []
    for compiled in kinds():
        for mode in (UNSCORED, *MODES):
            some = [cell for cell in cells if (cell.mode, cell.compiled) == (mode, compiled)]
            coefficients = fit(some)
            errors = [error(fit([other for other in some if other is not cell]), cell) for cell in some]
            as_shipped = [error(FITTED[mode, compiled], cell, factor) for cell in some]
            left_out, shipped = left_out + errors, shipped + as_shipped
            name = named(mode, compiled)
            facts[name] = coefficients._asdict()
            ends = (statistics.median(errors), max(errors), statistics.median(as_shipped))
            table.add_row(name, *(f"{value:.2f}" for value in coefficients), *(f"{end:.0%}" for end in ends))
    console.print(table)
    console.print(f"reference: {facts['reference_us']:.1f} us")
    return facts, [
        at_most("model of the relay's cost: median error of cells left out", statistics.median(left_out), LEFT_OUT),
        at_most("model of the relay's cost as shipped: median error", statistics.median(shipped), SHIPPED),
    ]
