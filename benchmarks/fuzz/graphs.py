"""Graphs of bundles, as native evaluation reads and plans them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz.outcomes import Failure, Refused
from tocsin.testing.detector_example import DetectorExample
from tocsin_detectors.small_graphs.evaluator import load_steps
from tocsin_detectors.small_graphs.graph_file import read_graph
from tocsin_detectors.small_graphs.planner import plan
from tocsin_detectors.small_graphs.unsupported import Unsupported

DETECTORS = ("energy", "mahalanobis", "quantile_aggregation", "stac")  # between them, most operators


def graphs(folder: Path) -> list[bytes]:
    """Graphs that are planned: those in the folder, where an earlier call has left them, or fitted anew."""
    paths = [folder / f"{name}.onnx" for name in DETECTORS]
    for name, path in zip(DETECTORS, paths, strict=True):
        if not path.exists():
            path.write_bytes(DetectorExample(name).scorer.graph)
    return [path.read_bytes() for path in paths]


def planned(case: bytes) -> None:
    """A graph is planned or refused, and a plan is one that the compiled module takes, where that is installed."""
    try:
        graph = read_graph(case)
        arrays = plan(graph, {name: width or 4 for name, width in graph.widths.items()}, 1)
    except Unsupported:
        raise Refused from None
    steps = load_steps()
    if steps is None:
        return
    try:
        steps.Plan(*arrays)
    except ValueError as error:
        raise Failure(f"a plan that was made cannot be run: {error}") from error
