"""Calibration and evaluation at the size of real traffic: time and memory as rows grow, here, by numpy, and on Ray."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.harness.parts import safe_traffic
from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin.offline.scoring import GRAPH, ScoreReader
from tocsin_calibration import Bundle
from tocsin_detectors import Entropy, Mahalanobis, compile

SIZES = (100_000, 1_000_000, 10_000_000, 100_000_000)
FILE = 1_000_000  # rows of one
LINEAR, FLAT, GIB = 1.05, 1.15, 1024.0  # exponent of time, growth of memory for a hundred times the rows, MB

# The same promise by numpy, of which everything is in memory: what a script would do.
NUMPY = """
import sys, numpy as np, pyarrow.parquet as pq
from tocsin_calibration.dividing import reference_rows
from tocsin_calibration.thresholds.joint import JointScore
from tocsin_calibration.thresholds.split import rank
table = pq.read_table(sys.argv[1], columns=["score.entropy", "score.mahalanobis"])
scores = np.column_stack([column.to_numpy() for column in table.columns])
part_a = reference_rows(len(scores), 0)
part_b = np.ones(len(scores), bool)
part_b[part_a] = False
joint = JointScore(np.sort(scores[part_a].astype(float), axis=0), "any")
ordered = np.sort(np.concatenate([joint(part)[0] for part in np.array_split(scores[part_b], len(scores) // 65536 + 1)]))
print([float(ordered[rank(len(ordered), alpha) - 1]) for alpha in (0.01, 0.05)])
"""


class Run(NamedTuple):
    """A command's seconds, processor seconds and peak resident megabytes, and what it printed."""

    seconds: float
    cpu: float
    peak: float
    said: str


def main() -> None:
    options = arguments(
        __doc__,
        most={"type": lambda text: int(float(text)), "default": SIZES[-1], "help": "rows of the largest recording"},
        ray={"type": lambda text: int(float(text)), "default": SIZES[2], "help": "rows for Ray; 0 leaves it out"},
    )
    sizes = [size for size in SIZES if size <= options.most]
    table = Table("rows", "what", "seconds", "CPU seconds", "peak MB", "us a row", title="Scores to promises")
    results: list[dict[str, Any]] = []

    def note(rows: int, what: str, run: Run) -> None:
        results.append({"rows": rows, "what": what, "seconds": run.seconds, "cpu": run.cpu, "peak_mb": run.peak})
        each = f"{1e6 * run.seconds / rows:.2f}"
        table.add_row(f"{rows:,}", what, f"{run.seconds:.1f}", f"{run.cpu:.1f}", f"{run.peak:,.0f}", each)

    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = fitted(Path(folder))
        data = Path(folder) / "scores"
        for rows in sizes:
            grow(data, rows, bundle)
            note(rows, "tocsin calibrate", tocsin("calibrate", bundle, data, "-o", out(bundle)))
            note(rows, "tocsin evaluate", tocsin("evaluate", out(bundle), fresh(bundle), "--on", "here"))
            ours = thresholds(out(bundle))
            if rows <= SIZES[2]:
                note(rows, "numpy", by_numpy := measured([sys.executable, "-c", NUMPY, str(data)]))
                checks.append(same(f"{rows:,} rows: thresholds are those of sorting", ours, json.loads(by_numpy.said)))
            if rows == options.ray:
                for what, killed in (("tocsin calibrate --on ray", False), ("the same, a worker killed", True)):
                    note(rows, what, on_cluster(bundle, data, killed))
                    checks.append(same(f"{what}: thresholds as here", ours, thresholds(out(bundle))))
    console.print(table)
    runs = {(result["rows"], result["what"]): result for result in results}
    if len(sizes) > 2:
        small, large = sizes[-2], sizes[-1]
        calibrations = [runs[rows, "tocsin calibrate"] for rows in (small, large)]
        exponent = math.log(calibrations[1]["seconds"] / calibrations[0]["seconds"]) / math.log(large / small)
        checks.append(at_most(f"calibrate: exponent of time, {small:,} to {large:,} rows", exponent, LINEAR))
        flat = calibrations[1]["peak_mb"] / runs[SIZES[1], "tocsin calibrate"]["peak_mb"]
        checks.append(at_most(f"calibrate: peak memory, {large:,} rows over 1,000,000", flat, FLAT))
    peak = max(
        result["peak_mb"] for result in results if result["what"].startswith("tocsin") and "ray" not in result["what"]
    )
    checks.append(at_most("largest peak of calibrate and evaluate, MB", peak, GIB))
    finish(results, checks, options.json)


def fitted(folder: Path) -> Path:
    path = folder / "b.tocsin"
    Bundle(compile([Entropy(), Mahalanobis()], fit_on=safe_traffic(300)), None).write(path)
    return path


def out(bundle: Path) -> Path:
    return bundle.with_name("calibrated.tocsin")


def grow(data: Path, rows: int, bundle: Path) -> None:
    """Scores like safe traffic's, so many rows in all, file by file; those that are there stay."""
    data.mkdir(exist_ok=True)
    for number in range(-(-rows // FILE)):
        write(data / f"{number:05d}.parquet", min(FILE, rows - number * FILE), number, bundle)
    unseen = fresh(bundle)
    unseen.mkdir(exist_ok=True)
    for number in range(-(-rows // FILE)):
        write(unseen / f"{number:05d}.parquet", min(FILE, rows - number * FILE), 10**6 + number, bundle)


def fresh(bundle: Path) -> Path:
    """The path of a second recording of the same size, for evaluation."""
    return bundle.with_name("fresh")


def write(path: Path, rows: int, seed: int, bundle: Path) -> None:
    if path.exists() and pq.read_metadata(path).num_rows == rows:
        return
    rng = np.random.default_rng(seed)
    columns = {
        "score.entropy": rng.exponential(0.3, rows).astype(np.float32),
        "score.mahalanobis": rng.chisquare(64, rows).astype(np.float32),
    }
    facts = {GRAPH: ScoreReader.of(Bundle.read(bundle)).digest.encode()}
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), path, compression="zstd")


def tocsin(*words: object) -> Run:
    return measured([sys.executable, "-m", "tocsin", *map(str, words)])


def measured(command: list[str]) -> Run:
    """Run a command to its end."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:6])}: exit code {process.returncode}\n{output}")
    return Run(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output)


def on_cluster(bundle: Path, data: Path, killed: bool) -> Run:
    """Calibrate on a local Ray cluster; kill one of its workers while it works."""
    done = threading.Event()
    dead: list[int] = []

    def kill() -> None:
        while not done.wait(0.02) and not dead:
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    if b"ray::_counts_of" in (folder / "cmdline").read_bytes():
                        os.kill(int(folder.name), signal.SIGKILL)
                        dead.append(int(folder.name))
                        return
                except OSError:
                    continue

    thread = threading.Thread(target=kill)
    if killed:
        thread.start()
    run = tocsin("calibrate", bundle, data, "-o", out(bundle), "--on", "ray")
    done.set()
    if killed:
        thread.join()
        if not dead:
            raise SystemExit("no worker was found to be killed: the cluster was too quick, take more rows with --ray")
    return run


def thresholds(bundle: Path) -> list[float]:
    limits = Bundle.read(bundle).require_promise().thresholds
    return [limits["critical"], limits["warning"]]


def same(name: str, ours: list[float], theirs: list[float]) -> Check:
    """A check that two lists of thresholds are equal to the bit."""
    return Check(name, float(np.abs(np.subtract(ours, theirs)).max()), "= 0", ours == theirs)


if __name__ == "__main__":
    main()
