"""The scorer: all detectors of a bundle as one ONNX graph, run by ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tocsin_detectors.errors import GraphError, SignalError
from tocsin_detectors.observation import Float32, Observations

SCORES = "scores"


class Scorer:
    """Runs a graph made by `compile` on batches of responses.

    `signals` maps each signal the graph reads to its width; `detectors` names the columns of the scores.
    Raises GraphError when `graph` is not such a graph. `threads` bounds the threads a run may use.
    """

    def __init__(self, graph: bytes, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would burn the model server's cores while nothing is asked.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise GraphError(f"ONNX Runtime cannot load the scorer's graph: {error}") from error
        self.graph = graph
        self.signals = {i.name: _width(i.name, i.shape) for i in self._session.get_inputs()}
        outputs = [output.name for output in self._session.get_outputs()]
        if outputs != [SCORES]:
            raise GraphError(f"a scorer's graph has the one output '{SCORES}', not {outputs}")
        named = self._session.get_modelmeta().custom_metadata_map.get("detectors", "")
        self.detectors = tuple(filter(None, named.split(",")))
        columns = self._session.get_outputs()[0].shape[-1]
        if len(self.detectors) != columns:
            raise GraphError(f"the graph has {columns} scores but names {len(self.detectors)} detectors")
        self._outputs = [SCORES]

    def __call__(self, observations: Observations) -> Float32:
        """Scores of shape (n, number of detectors), float32, higher = worse. Checks names and widths first."""
        for name, width in self.signals.items():
            found = observations[name].shape[1]
            if found != width:
                raise SignalError(f"signal '{name}' has width {found}, but the detectors were fitted on {width}")
        return self.run({name: observations[name] for name in self.signals})

    def run(self, signals: Mapping[str, Float32]) -> Float32:
        """The same without checks, for callers that have made them: each signal (n, width), float32, contiguous."""
        scores: Float32 = self._session.run(self._outputs, signals)[0]
        return scores

    def warm(self) -> float:
        """Run on zeros until nothing is left to set up; the seconds that a batch of eight then takes."""
        for n in (1, 64, 8, 8, 8):
            zeros = {name: np.zeros((n, width), np.float32) for name, width in self.signals.items()}
            started = time.perf_counter()
            self.run(zeros)
        return time.perf_counter() - started

    def swallowed(self) -> list[str]:
        """The signals in which a NaN or an infinity may pass without making any score NaN or infinite.

        Whoever runs the scorer must look at those themselves; for the others, finite scores mean finite signals.
        Found by trying every position of every signal.
        """
        ones = {name: np.ones((1, width), np.float32) for name, width in self.signals.items()}
        usual = np.isfinite(self.run(ones)[0])
        return [name for name in self.signals if not all(self._notices(name, bad, usual) for bad in (np.nan, np.inf))]

    def _notices(self, signal: str, bad: float, usual: NDArray[np.bool_]) -> bool:
        width = self.signals[signal]
        for start in range(0, width, 256):
            rows = min(256, width - start)
            tried = {name: np.ones((rows, w), np.float32) for name, w in self.signals.items()}
            tried[signal][np.arange(rows), start + np.arange(rows)] = bad
            if not (~np.isfinite(self.run(tried)) & usual).any(axis=1).all():
                return False
        return True


def _width(name: str, shape: list[int | str | None]) -> int:
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise GraphError(f"the graph's input '{name}' must have the shape (n, width), not {shape}")
    return shape[1]
