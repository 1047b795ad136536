"""Fitted detectors -> one ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tocsin_detectors.detector import Detector
from tocsin_detectors.errors import DetectorError
from tocsin_detectors.features import Features, with_features
from tocsin_detectors.free_length import FreeLength
from tocsin_detectors.observation import FittingData
from tocsin_detectors.precision import in_double_precision
from tocsin_detectors.scorer import DETECTORS, FREE, MASKED, SCORES, Scorer

if TYPE_CHECKING:
    from spox import Var


def compile(
    detectors: Sequence[Detector], fit_on: FittingData, *, features: Sequence[Features] = (), seed: int = 0
) -> Scorer:
    """Fit the detectors on safe responses and make one scorer of them, with the models of `features` before them.

    Raises SignalError when the data cannot serve, DetectorError when there are no detectors.

        >>> import numpy as np
        >>> from tocsin_detectors import Entropy, Mahalanobis, Observations
        >>> rng = np.random.default_rng(0)
        >>> safe = Observations({"probs": rng.dirichlet(np.ones(3), 200), "embedding": rng.normal(size=(200, 4))})
        >>> scorer = compile([Entropy(), Mahalanobis()], fit_on=safe)
        >>> scorer.detectors
        ('entropy', 'mahalanobis')
    """
    extended = with_features(fit_on, features, signals_of(detectors))
    return Scorer(build_graph([detector.fit(extended, seed=seed) for detector in detectors], fit_on, features))


def signals_of(detectors: Iterable[Detector]) -> tuple[str, ...]:
    """The signals that fitting the detectors looks at, each once."""
    every = (s for d in detectors for s in (*d.reads, *getattr(d, "fits_on", ())))
    return tuple(dict.fromkeys(every))


def free_lengths(detectors: Iterable[Detector], features: Iterable[Features] = ()) -> dict[str, FreeLength]:
    """The signals of free length: every detector and feature that reads one must agree that it is."""
    claims: dict[str, set[FreeLength | None]] = {}
    readers: list[Detector | Features] = [*detectors, *features]
    for reader in readers:
        for signal in reader.reads:
            claims.setdefault(signal, set()).add(getattr(reader, "free_length", None))
    agreed = {signal: claim.pop() for signal, claim in claims.items() if len(claim) == 1}
    return {signal: free for signal, free in agreed.items() if free is not None}


def masked_signals(detectors: Iterable[Detector], features: Iterable[Features] = ()) -> tuple[str, ...]:
    """The signals in which -inf is a probability of 0 to every detector that reads them."""
    readers: list[Detector | Features] = [*detectors, *features]
    others = {s for reader in readers if not getattr(reader, "reads_masked", False) for s in reader.reads}
    return tuple(dict.fromkeys(s for reader in readers for s in reader.reads if s not in others))


def build_graph(detectors: Sequence[Detector], like: FittingData, features: Sequence[Features] = ()) -> bytes:
    """One ONNX model of fitted detectors.

    Inputs: each signal read, (n, width), float32, n free. Output: `tocsin.scores`, (n, number of detectors), float32, a
    column a detector. The names of the columns are in the model's metadata, unique: a detector that appears twice
    is named by its signals. `like` has the signals' widths.
    """
    import spox
    import spox.opset.ai.onnx.v18 as op

    if not detectors:
        raise DetectorError("a scorer needs at least one detector")
    feature_names = {feature.name for feature in features}
    readers: list[Detector | Features] = [*features, *detectors]
    wanted = [s for reader in readers for s in reader.reads if s not in feature_names]
    free = {name: length for name, length in free_lengths(detectors, features).items() if name not in feature_names}
    inputs = {
        name: spox.argument(spox.Tensor(np.float32, ("n", f"{name}_length" if name in free else like.width(name))))
        for name in dict.fromkeys(wanted)
    }
    signals: dict[str, Var] = dict(inputs)
    for feature in features:
        signals[feature.name] = feature.graph(*(signals[s] for s in feature.reads))
    columns = [_scores(detector, [signals[name] for name in detector.reads]) for detector in detectors]
    model = spox.build(inputs, {SCORES: op.concat(columns, axis=1) if len(columns) > 1 else columns[0]})
    facts = {
        DETECTORS: ",".join(column_names(detectors)),
        FREE: ",".join(
            f"{s}={length.unit(like.shape(s))}/{length.padding}/{length.axis}" for s, length in free.items()
        ),
    }
    if masked := [s for s in masked_signals(detectors, features) if s in inputs]:
        facts[MASKED] = ",".join(masked)
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def _scores(detector: Detector, signals: list[Var]) -> Var:
    """A detector's scores, (n, 1), computed in double precision."""
    import spox

    arguments = {f"signal{place}": spox.argument(signal.unwrap_tensor()) for place, signal in enumerate(signals)}
    model = spox.build(arguments, {"score": detector.graph(*arguments.values())})
    fed = dict(zip(arguments, signals, strict=True))
    return spox.inline(in_double_precision(model, getattr(detector, "resolution", 0)))(**fed)["score"]


def column_names(detectors: Sequence[Detector]) -> list[str]:
    """A unique name a detector: its own, with the signals added where the same one appears twice."""
    names = [detector.name for detector in detectors]
    named = [f"{d.name}:{'+'.join(d.reads)}" if names.count(d.name) > 1 else d.name for d in detectors]
    if len(set(named)) < len(named):
        raise DetectorError(f"the same detector appears twice on the same signal: {', '.join(named)}")
    return named
