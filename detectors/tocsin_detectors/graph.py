"""Fitted detectors -> one ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tocsin_detectors.detector import Detector
from tocsin_detectors.errors import DetectorError
from tocsin_detectors.observation import Observations
from tocsin_detectors.scorer import SCORES, Scorer


def compile(detectors: Sequence[Detector], fit_on: Observations, *, seed: int = 0) -> Scorer:
    """Fit the detectors on safe responses and make one scorer of them.

    Raises SignalError when the data cannot serve, DetectorError when there are no detectors.
    """
    return Scorer(build_graph([detector.fit(fit_on, seed=seed) for detector in detectors], fit_on))


def build_graph(detectors: Sequence[Detector], like: Observations) -> bytes:
    """One ONNX model of fitted detectors.

    Inputs: each signal read, (n, width), float32, n free. Output: `scores`, (n, number of detectors), float32, a
    column a detector. The names of the columns are in the model's metadata, unique: a detector that appears twice
    is told apart by its signals.
    """
    import spox
    import spox.opset.ai.onnx.v18 as op

    if not detectors:
        raise DetectorError("a scorer needs at least one detector")
    signals = {
        name: spox.argument(spox.Tensor(np.float32, ("n", like[name].shape[1])))
        for name in dict.fromkeys(signal for detector in detectors for signal in detector.reads)
    }
    columns = [d.graph(*(signals[s] for s in d.reads)) for d in detectors]
    model = spox.build(signals, {SCORES: op.concat(columns, axis=1) if len(columns) > 1 else columns[0]})
    for key, value in {"detectors": ",".join(column_names(detectors))}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def column_names(detectors: Sequence[Detector]) -> list[str]:
    """A unique name a detector: its own, with the signals added where the same one appears twice."""
    own = [detector.name for detector in detectors]
    named = [f"{d.name}:{'+'.join(d.reads)}" if own.count(d.name) > 1 else d.name for d in detectors]
    if len(set(named)) < len(named):
        raise DetectorError(f"the same detector appears twice on the same signal: {', '.join(named)}")
    return named
