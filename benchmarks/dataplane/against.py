"""This tree's relay beside another checkout's, interleaved: `--tree FOLDER`, such as a git worktree of an older commit.

    git worktree add ../before REVISION     # and copy the *.binpb files of this tree into it
    python -m benchmarks.dataplane.against --tree ../before --json against.json
    python -m benchmarks.dataplane.against --tree ../before --compiled      # `make compiled` in both

Both judge with one bundle, made by this tree, in front of one upstream. Figures are medians over rounds. Machines that
do other things besides show noise: `--only 'scored observe, 16x16'` measures again what stands out. A stream's figures
are those of the whole stream.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.table import Table as Printed

from benchmarks.compiled import FOLDER
from benchmarks.dataplane.hops import Hop, free_port, start_relay, start_upstream
from benchmarks.dataplane.load import Figures, Shape, load, medians
from benchmarks.dataplane.messages import (
    PATH,
    STREAM_PATH,
    WIDTHS,
    make_bundle,
    request,
    response,
    stream,
    traffic,
)
from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin.grpc_wire.deframer import framed

MODES = ("observe", "annotate", "enforce")


class Load(NamedTuple):
    """What h2load asks for, how often, and what the upstream answers: `padding` bytes more than detectors read, or a
    stream of so many `messages`.
    """

    shape: Shape
    path: str = PATH
    padding: int = 0
    messages: int = 1


LOADS = {
    "1x1": Load(Shape(1, 1, 1_000)),
    "4x8": Load(Shape(4, 8, 5_000)),
    "16x16": Load(Shape(16, 16, 6_000)),
    "100 KB": Load(Shape(4, 4, 800), padding=100_000),
    "1 MB": Load(Shape(4, 4, 160), padding=1_000_000),
    "1,000 messages": Load(Shape(2, 2, 60), STREAM_PATH, messages=1_000),
}
MOST = 1.05  # times the other tree's CPU a request
SOURCES = ("detectors", "calibration", "middleware")
HERE = Path(__file__).resolve().parents[2]


def import_path(tree: Path, compiled: bool) -> str:
    """Where Python finds a tree's packages. Raises SystemExit where the tree is not compiled and has to be."""
    if not compiled:
        return os.pathsep.join(str(tree / source) for source in SOURCES)
    if not (tree / FOLDER / "tocsin").exists():
        raise SystemExit(f"{tree / FOLDER} is missing: run `make compiled` in {tree}")
    return str(tree / FOLDER)


def relays(work: Path, upstream: int, bundle: Path, paths: tuple[str, str], only: str) -> dict[str, tuple[Hop, Hop]]:
    """Pairs of relays by name, the other tree's and this one's, in every mode with and without a bundle. `paths`: where
    Python finds the packages of each; `only`: pairs of which some row's name begins so.
    """
    signals = ", ".join(f"{name}: response.outputs.{name}" for name in WIDTHS)
    settings = {
        "scored ": f"  bench: {{bundle: {bundle}, signals: {{{signals}}}}}\n",
        "": f"  bench: {{signals: {{{signals}}}}}\n",
    }
    pairs = {}
    for scored, models in settings.items():
        for mode in MODES:
            name = scored + mode
            if not any(row_name(name, shape).startswith(only) for shape in LOADS):
                continue
            started = []
            for place, path in zip(("there", "here"), paths, strict=True):
                os.environ["PYTHONPATH"] = path
                started.append(start_relay(f"{name} {place}", work, upstream, mode, models))
            del os.environ["PYTHONPATH"]
            pairs[name] = started[0], started[1]
    return pairs


def row_name(relay: str, shape: str) -> str:
    """What a row and its check are called."""
    return f"{relay}, {shape}"


def measured(pair: tuple[Hop, Hop], demand: Load, request_file: Path, rounds: int) -> dict[str, float]:
    """CPU of a request and mean latency of both relays (us), asked in turn; the first round is to warm up."""
    several: list[list[Figures]] = [[], []]
    for number in range(rounds + 1):
        for at in (0, 1) if number % 2 else (1, 0):
            several[at].append(load(pair[at], demand.path, request_file, demand.shape, settles=demand.messages > 1))
    there, here = (medians(rows[1:]) for rows in several)
    ratio = statistics.median(b.cpu_us / a.cpu_us for a, b in zip(*(rows[1:] for rows in several), strict=True))
    return {
        "cpu_us_there": there.cpu_us, "cpu_us_here": here.cpu_us, "ratio": ratio,
        "latency_us_there": there.latency_us, "latency_us_here": here.latency_us,
    }  # fmt: skip


@contextmanager
def ended(hop: Hop) -> Iterator[Hop]:
    """A process that ends with the block."""
    try:
        yield hop
    finally:
        end(hop)


def end(hop: Hop) -> None:
    """End a process, so that its port is free."""
    assert hop.process is not None
    hop.process.kill()
    hop.process.wait()


def main() -> None:
    """Measure and write."""
    options = arguments(
        "this tree's relay beside another's",
        tree={"type": Path, "required": True, "help": "the other checkout"},
        rounds={"type": int, "default": 7},
        compiled={"action": "store_true", "help": "measure what `make compiled` has built in both trees"},
        only={"default": "", "help": "rows whose name begins so, such as 'scored' or 'scored observe, 16x16'"},
    )
    os.environ.pop("PYTHONPATH", None)
    paths = import_path(options.tree.resolve(), options.compiled), import_path(HERE, options.compiled)
    results: dict[str, dict[str, dict[str, float]]] = {}
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        observations = traffic(1_000)
        make_bundle(observations, work / "bench.tocsin")
        (work / "request.bin").write_bytes(request())
        port = free_port()
        pairs = relays(work, port, work / "bench.tocsin", paths, options.only)
        title = "Relays, compiled" if options.compiled else "Relays"
        printed = Printed("relay", "load", "CPU us there", "here", "ratio", "mean us there", "here", title=title)
        try:
            for load_name, demand in LOADS.items():
                wanted = [name for name in pairs if row_name(name, load_name).startswith(options.only)]
                if not wanted:
                    continue
                message = response(observations, 0, padding=demand.padding)
                content = framed(message) if demand.path == PATH else stream(message, demand.messages)
                with ended(start_upstream(work, {demand.path: content}, port, window=24)):
                    for name in wanted:
                        row = measured(pairs[name], demand, work / "request.bin", options.rounds)
                        results.setdefault(name, {})[load_name] = row
                        printed.add_row(
                            name, load_name, *(f"{value:,.{3 if key == 'ratio' else 1}f}" for key, value in row.items())
                        )
                        name_of_check = f"{row_name(name, load_name)}: CPU a request, of the other tree's"
                        checks.append(at_most(name_of_check, row["ratio"], MOST))
        finally:
            for hop in (hop for pair in pairs.values() for hop in pair):
                end(hop)
        console.print(printed)
    finish(results, checks, options.json)


if __name__ == "__main__":
    main()
