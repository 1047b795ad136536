"""What scoring a few rows costs by ONNX Runtime and natively: every detector that is evaluated natively, and the bundle
of `benchmarks.dataplane`.

    PYTHONPATH=build/compiled python -m benchmarks.small_graphs       # `make compiled` builds what evaluates them
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.compiled import GAIN
from benchmarks.dataplane.messages import make_bundle, traffic
from benchmarks.report import Check, arguments, console, finish
from tocsin.testing.detector_example import DetectorExample
from tocsin_calibration import Bundle
from tocsin_detectors import Scorer
from tocsin_detectors.registry import BUILT_IN
from tocsin_detectors.small_graphs.evaluator import load_steps

ROWS = (1, 4, 16)


def scorers(folder: Path) -> dict[str, Scorer]:
    """A scorer of each detector alone, and the one of four detectors."""
    make_bundle(traffic(1_000), folder / "bench.tocsin")
    bundle = {"four detectors": Bundle.read(folder / "bench.tocsin").scorer}
    return {**bundle, **{name: DetectorExample(name, None, None).scorer for name in BUILT_IN}}


def cost(scorer: Scorer, rows: int, rounds: int) -> tuple[float, float]:
    """CPU of a run on so many rows (us), by ONNX Runtime and natively, in turn: medians over rounds."""
    widths = {name: width or scorer.units[name] for name, width in scorer.signals.items()}
    signals = {name: np.full((rows, width), 0.25, np.float32) for name, width in widths.items()}
    native = scorer._native
    assert native is not None
    pairs = [
        (_cpu_us(lambda: scorer.run_by_onnx_runtime(signals)), _cpu_us(lambda: native.run(signals, rows)))
        for _ in range(rounds)
    ]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def _cpu_us(run: Callable[[], object], repeats: int = 200) -> float:
    before = time.process_time_ns()
    for _ in range(repeats):
        run()
    return (time.process_time_ns() - before) / repeats / 1e3


def main() -> None:
    options = arguments(__doc__ or "", rounds={"type": int, "default": 9, "help": "rounds of 200 runs each"})
    if load_steps() is None:
        raise SystemExit("nothing is evaluated natively here: run `make compiled`, and set PYTHONPATH=build/compiled")
    results: dict[str, dict[str, float]] = {}
    table = Table("graph", *(f"{rows} rows: ONNX Runtime, natively" for rows in ROWS), title="CPU of a run, us")
    with tempfile.TemporaryDirectory() as folder:
        measured = scorers(Path(folder))
    for name, scorer in measured.items():
        scorer.warm()
        if not scorer.native_rows:
            table.add_row(name, "by ONNX Runtime alone")
            continue
        costs = [cost(scorer, rows, options.rounds) for rows in ROWS]
        table.add_row(name, *(f"{ort:.1f}, {native:.1f}" for ort, native in costs))
        results[name] = {
            f"{kind}_{rows}": us
            for rows, pair in zip(ROWS, costs, strict=True)
            for kind, us in zip(("onnx_runtime_us", "native_us"), pair, strict=True)
        }
    console.print(table)
    gains = {name: row["onnx_runtime_us_1"] / row["native_us_1"] for name, row in results.items()}
    checks = [
        Check(f"{name}, one row: CPU by ONNX Runtime, of that natively", round(gain, 2), f">= {GAIN:g}", gain >= GAIN)
        for name, gain in gains.items()
    ]
    console.print(f"median gain on one row: {statistics.median(gains.values()):.1f}")
    finish({"graphs": results, "natively": len(results), "graphs_tried": len(measured)}, checks, options.json)


if __name__ == "__main__":
    main()
