"""A graph evaluated natively, where that gives what ONNX Runtime gives, to the bit, and sooner."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.observation import Float32
from tocsin_detectors.small_graphs.graph_file import read_graph
from tocsin_detectors.small_graphs.planner import plan
from tocsin_detectors.small_graphs.unsupported import Unsupported

Run = Callable[[Mapping[str, Float32]], Float32]

TRIAL_ROWS = 64  # for each kind of values that both are tried on
MOST_ROWS = 32  # that are evaluated natively: ONNX Runtime's fixed price is small beside what more of them cost
LONGEST = 1e-3  # seconds that the interpreter's lock is held
SHARE = 0.8  # of ONNX Runtime's time that native evaluation takes at most
RUNS = 15  # of each, to see which is quicker


def load_steps() -> Any:
    """The compiled module, or None where Tocsin was installed without it."""
    try:
        return import_module("tocsin_detectors.small_graphs._steps")
    except ImportError:
        return None


class Evaluator:
    """Evaluates a plan for up to `most_rows` rows. Safe between threads: it holds the interpreter's lock."""

    def __init__(self, plan: Any, signals: Iterable[str], columns: int) -> None:
        self._run, self._run_contents = plan.run, plan.run_contents
        self.signals, self._columns = tuple(signals), columns
        self.most_rows = MOST_ROWS

    def run(self, signals: Mapping[str, Float32], rows: int) -> Float32 | None:
        """Scores (rows, columns) from signals (rows, width), float32.

        None where ONNX Runtime has to score these rows: a value or a score is NaN or infinite, an array is not
        contiguous, or a signal of free length has another width than what was planned.
        """
        scores: Float32 = np.empty((rows, self._columns), np.float32)
        try:
            done = self._run(rows, tuple([signals[name] for name in self.signals]), scores)
        except (BufferError, ValueError):
            return None
        return scores if done else None

    def run_contents(self, responses: list[list[bytes]], rows: int, order: tuple[int, ...]) -> Float32 | None:
        """The same of responses that are not stacked, each a list of signals' float32 values as bytes, of one row or
        more; `order` says where in such a list each of `signals` is. None also where these are not so many rows.
        """
        scores: Float32 = np.empty((rows, self._columns), np.float32)
        return scores if self._run_contents(rows, responses, order, scores) else None


def evaluator(
    content: bytes, widths: Mapping[str, int], columns: int, masked: Collection[str], reference: Run
) -> Evaluator:
    """An evaluator of a graph, tried against `reference`, which ONNX Runtime runs.

    `widths` are those of the graph's signals, one of them where a length is free; `columns` is how many scores a row
    has. Raises Unsupported where the graph has to be run by ONNX Runtime.
    """
    steps = load_steps()
    if steps is None or not steps.FUSES:
        raise Unsupported("Tocsin was installed without its compiled parts, or the processor has no fused multiply-add")
    try:
        planned = steps.Plan(*plan(read_graph(content), widths, columns, masked))
    except ValueError as error:
        raise Unsupported(str(error)) from error
    native = Evaluator(planned, widths, columns)
    for number, signals in enumerate(_trials(widths, masked)):
        if not _agree(planned, signals, reference(signals)):
            raise Unsupported(f"ONNX Runtime gives other scores (in trial {number})")
    native.most_rows = _worth(native, reference, widths)
    if not native.most_rows:
        raise Unsupported("ONNX Runtime is as quick")
    return native


def _agree(plan: Any, signals: Mapping[str, Float32], expected: Float32) -> bool:
    """Whether a plan gives these very numbers, one row at a time and in batches; NaN and infinities are alike."""
    for rows in (1, 4):
        for at in range(0, TRIAL_ROWS, rows):
            wanted = expected[at : at + rows]
            scores = np.zeros_like(wanted)
            plan.run(rows, tuple([values[at : at + rows] for values in signals.values()]), scores)
            finite = np.isfinite(wanted)
            if (finite != np.isfinite(scores)).any() or (wanted != scores)[finite].any():
                return False
    return True


def _trials(widths: Mapping[str, int], masked: Collection[str]) -> Iterable[dict[str, Float32]]:
    """Values of every kind that signals are of: constants, logits, embeddings, probabilities and their logarithms."""
    random = np.random.default_rng(0)

    def normals(scale: float) -> Callable[[int], NDArray[np.float64]]:
        return lambda width: random.normal(scale=scale, size=(TRIAL_ROWS, width))

    kinds: list[Callable[[int], NDArray[np.float64]]] = [
        lambda width: np.zeros((TRIAL_ROWS, width)),
        lambda width: np.ones((TRIAL_ROWS, width)),
        *(normals(scale) for scale in (0.01, 1, 30, 1e6)),
        lambda width: random.uniform(size=(TRIAL_ROWS, width)),
        lambda width: -random.exponential(size=(TRIAL_ROWS, width)),
        lambda width: random.dirichlet(np.ones(width), TRIAL_ROWS),
        lambda width: np.round(random.normal(scale=2, size=(TRIAL_ROWS, width))),
    ]
    for kind in kinds:
        yield {name: kind(width).astype(np.float32) for name, width in widths.items()}
    if masked:
        signals = {name: -random.exponential(size=(TRIAL_ROWS, width)) for name, width in widths.items()}
        for name in masked:
            signals[name][random.uniform(size=signals[name].shape) < 0.3] = -np.inf
        yield {name: values.astype(np.float32) for name, values in signals.items()}


def _worth(native: Evaluator, reference: Run, widths: Mapping[str, int]) -> int:
    """How many rows, a power of two, are evaluated sooner natively; 0 where not even one is."""
    rows = 1
    while rows <= MOST_ROWS:
        signals = {name: np.ones((rows, width), np.float32) for name, width in widths.items()}
        # In turn, and the least of each: whatever else the machine does takes longer.
        pairs = [(_seconds(native.run, signals, rows), _seconds(reference, signals)) for _ in range(RUNS)]
        if min(ours for ours, _ in pairs) > min(LONGEST, min(theirs for _, theirs in pairs) * SHARE):
            break
        rows *= 2
    return rows // 2


def _seconds(run: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - started
