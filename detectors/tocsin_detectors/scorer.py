"""The scorer: all detectors of a bundle as one ONNX graph, run by ONNX Runtime."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import GraphError, SignalError
from tocsin_detectors.free_length import FreeLength
from tocsin_detectors.observation import Float32, Observations
from tocsin_detectors.sharing import open_session
from tocsin_detectors.small_graphs.by_width import LARGEST_GRAPH, EvaluatorsByWidth
from tocsin_detectors.small_graphs.evaluator import MOST_ROWS, Evaluator, evaluator
from tocsin_detectors.small_graphs.unsupported import Unsupported

log = logging.getLogger("tocsin")

SCORES = "tocsin.scores"  # no signal is called so
DETECTORS, FREE, MASKED = "detectors", "free", "masked"  # keys of the graph's metadata
SLICE = 16_384  # rows that are scored in one run of the graph
TRIED = 32  # steps of a signal of free length when the graph is tried out
TIMED_RUNS = 5  # of which the shortest says what a batch takes
TRIAL = 20.0  # seconds after which a run that tries the graph out is ended: it may have no end by itself


class Scorer:
    """Runs a graph made by `compile` on batches of responses.

    `signals` maps each signal the graph reads to its width, 0 where that is free; `units` maps those to the number
    that a width must be a multiple of, and `free_lengths` to how shorter ones are filled up to share an array. In
    `masked` signals, -inf is the logarithm of a probability of 0. `detectors` names the columns of the scores.
    Raises GraphError when `graph` is not such a graph. `threads` bounds the threads a run may use.
    """

    def __init__(self, graph: bytes, *, threads: int = 1) -> None:
        from tocsin_detectors.onnx_runtime import onnxruntime  # a tenth of a second, which only who has a bundle needs

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would burn the model server's cores while nothing is asked.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session, shared = open_session(graph, options)
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise GraphError(f"ONNX Runtime cannot load the scorer's graph: {error}") from error
        self.graph = b"" if shared else graph  # who serves need not write it, and it may be large
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.units, self.free_lengths = _free(metadata.get(FREE, ""))
        self.masked = frozenset(filter(None, metadata.get(MASKED, "").split(",")))
        self.signals = {i.name: _width(i.name, i.shape, i.name in self.units) for i in self._session.get_inputs()}
        outputs = [output.name for output in self._session.get_outputs()]
        if outputs != [SCORES]:
            raise GraphError(f"a scorer's graph has the one output '{SCORES}', not {outputs}")
        self.detectors = tuple(filter(None, metadata.get(DETECTORS, "").split(",")))
        columns = self._session.get_outputs()[0].shape[-1]
        if len(self.detectors) != columns:
            raise GraphError(f"the graph has {columns} scores but names {len(self.detectors)} detectors")
        self._outputs = [SCORES]
        self._native: Evaluator | None = None  # `warm` tries whether a small graph needs ONNX Runtime
        self._by_width: EvaluatorsByWidth | None = None  # where signals are of free length

    def __call__(self, observations: Observations) -> Float32:
        """Scores of shape (n, number of detectors), float32, higher = worse. Checks names and widths first."""
        for name in self.signals:
            if problem := self.misfit(name, observations[name].shape[1]):
                raise SignalError(problem)
        if not observations.rows:
            return np.zeros((0, len(self.detectors)), np.float32)
        return self.run({name: observations[name] for name in self.signals})

    def misfit(self, signal: str, width: int) -> str:
        """What is wrong with a signal of that width, in words; nothing when the graph can read it."""
        fitted, unit = self.signals[signal], self.units.get(signal, 1)
        if fitted and width != fitted:
            return f"signal '{signal}' has width {width}, but the detectors were fitted on {fitted}"
        if not fitted and (width < 1 or width % unit):
            return f"signal '{signal}' has width {width}, but the detectors were fitted on multiples of {unit}"
        return ""

    def run(self, signals: Mapping[str, Float32]) -> Float32:
        """The same without checks, for callers that have made them: each signal (n, width), float32, contiguous.

        Many rows are scored a slice at a time: a graph's intermediate values may take many times what its signals do.
        Few are evaluated natively where that gives the same scores sooner.
        """
        rows = len(next(iter(signals.values()))) if signals else 0
        if (native := self._native) is not None and rows <= MOST_ROWS:
            if self._by_width is not None:
                native = self._by_width.of(signals)
            if native is not None and rows <= native.most_rows:
                evaluated = native.run(signals, rows)
                if evaluated is not None:
                    return evaluated
        if rows > SLICE:
            parts = [
                self._session.run(self._outputs, {name: v[at : at + SLICE] for name, v in signals.items()})[0]
                for at in range(0, rows, SLICE)
            ]
            return np.concatenate(parts)
        scores: Float32 = self._session.run(self._outputs, signals)[0]
        return scores

    def native(self, rows: int, widths: Mapping[str, int]) -> Evaluator | None:
        """What evaluates so many rows of signals of these widths natively; None where ONNX Runtime scores them."""
        native = self._native
        if native is not None and self._by_width is not None and rows <= MOST_ROWS:
            native = self._by_width.look_up(widths)
        return native if native is not None and rows <= native.most_rows else None

    def run_by_onnx_runtime(self, signals: Mapping[str, Float32]) -> Float32:
        """The same by ONNX Runtime whatever the number of rows. Raises GraphError where it fails."""
        try:
            scores: Float32 = self._session.run(self._outputs, signals)[0]
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise GraphError(f"the graph cannot be run: {' '.join(str(error).split())}") from error
        return scores

    def try_out(self, signals: Mapping[str, Float32]) -> Float32:
        """The same for a graph that nobody knows yet. Raises GraphError where it fails, or takes longer than TRIAL."""
        from tocsin_detectors.onnx_runtime import onnxruntime

        how = onnxruntime.RunOptions()
        how.log_severity_level = 4  # what fails is raised
        watch = threading.Timer(TRIAL, lambda: setattr(how, "terminate", True))
        watch.daemon = True
        watch.start()
        try:
            scores: Float32 = self._session.run(self._outputs, signals, how)[0]
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            if how.terminate:
                rows = max((len(values) for values in signals.values()), default=0)
                problem = f"the graph did not come to an end within {TRIAL:g} s on {rows} responses of zeros or ones"
                raise GraphError(problem) from None
            raise GraphError(f"the graph cannot be run: {' '.join(str(error).split())}") from error
        finally:
            watch.cancel()
        return scores

    def warm(self) -> float:
        """Run on zeros until nothing is left to set up; the seconds that a batch of eight then takes, the least of
        `TIMED_RUNS`, as anything else that the machine does only makes one longer. Raises GraphError where a run fails
        or does not end.

        A small graph of known operators is then evaluated natively where that gives what ONNX Runtime gives.
        """
        for n in (1, 64, 8):
            scores = self.try_out(self._zeros(n))
            expected = (n, len(self.detectors))
            if scores.shape != expected:
                raise GraphError(f"the graph gives scores of shape {scores.shape} for {n} responses, not {expected}")
        self._native = self._evaluator()
        return min(self._timed(self._zeros(8)) for _ in range(TIMED_RUNS))

    @property
    def native_rows(self) -> int:
        """Up to how many rows are evaluated without ONNX Runtime; none before `warm` has tried that."""
        return 0 if self._native is None else self._native.most_rows

    def _evaluator(self) -> Evaluator | None:
        """Evaluates the graph natively, signals of free length at their shortest; None where ONNX Runtime has to."""
        self._native = self._by_width = None
        shortest = {name: width or self.units[name] for name, width in self.signals.items()}
        try:
            native = self._evaluator_of(shortest)
        except (GraphError, Unsupported) as reason:
            log.debug("ONNX Runtime scores every row: %s", reason)
            return None
        if self.units and len(self.graph) <= LARGEST_GRAPH:
            self._by_width = EvaluatorsByWidth(self._evaluator_of, shortest, native)
        return native

    def _evaluator_of(self, widths: Mapping[str, int]) -> Evaluator:
        return evaluator(self.graph, widths, len(self.detectors), self.masked, self.run_by_onnx_runtime)

    def cost(self, rows: int) -> float:
        """Seconds a response in batches of `rows`: the median of 30 runs on quarters, whose scores are finite as
        usual. Raises GraphError as `warm` does.
        """
        quarters = {name: values + np.float32(0.25) for name, values in self._zeros(rows).items()}
        self.try_out(quarters)
        return float(np.median([self._timed(quarters) for _ in range(34)][4:])) / rows

    def swallowed(self) -> list[str]:
        """The signals in which a NaN or an infinity may pass without making any score NaN or infinite.

        Whoever runs the scorer must look at those themselves; for the others, finite scores mean finite signals.
        Found by trying every position of every signal. Raises GraphError where ones cannot be scored.
        """
        ones = {name: np.ones((1, width), np.float32) for name, width in self._widths().items()}
        usual = np.isfinite(self.try_out(ones)[0])
        return [name for name in self.signals if not all(self._notices(name, bad, usual) for bad in (np.nan, np.inf))]

    def _timed(self, signals: Mapping[str, Float32]) -> float:
        started = time.perf_counter()
        self.run(signals)
        return time.perf_counter() - started

    def _zeros(self, rows: int) -> dict[str, Float32]:
        return {name: np.zeros((rows, width), np.float32) for name, width in self._widths().items()}

    def _widths(self) -> dict[str, int]:
        """Widths to try the graph with."""
        return {name: width or TRIED * self.units[name] for name, width in self.signals.items()}

    def _notices(self, signal: str, bad: float, usual: NDArray[np.bool_]) -> bool:
        """Whether a bad value at any place of a signal makes a score of `usual` columns not finite."""
        widths = self._widths()
        for start in range(0, widths[signal], 256):
            rows = min(256, widths[signal] - start)
            tried = {name: np.ones((rows, width), np.float32) for name, width in widths.items()}
            tried[signal][np.arange(rows), start + np.arange(rows)] = bad
            try:
                scores = self.try_out(tried)
            except GraphError:  # such as for a NaN that was to be an index
                return False
            if not (~np.isfinite(scores) & usual).any(axis=1).all():
                return False
        return True


def _width(name: str, shape: list[int | str | None], free: bool) -> int:
    if len(shape) == 2 and free:
        return 0
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise GraphError(f"the graph's input '{name}' must have the shape (n, width), not {shape}")
    return shape[1]


def _free(text: str) -> tuple[dict[str, int], dict[str, FreeLength]]:
    """Units and free lengths, as `build_graph` writes them."""
    units, lengths = {}, {}
    try:
        for part in filter(None, text.split(",")):
            name, _, facts = part.partition("=")
            unit, padding, axis = facts.split("/")
            units[name], lengths[name] = int(unit), FreeLength(float(padding), int(axis))
    except ValueError:
        raise GraphError(f"the graph's metadata '{FREE}' is garbled: {text}") from None
    return units, lengths
