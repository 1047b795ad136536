"""Fits detectors, each on its own, wherever the engine runs it."""

from __future__ import annotations

from collections.abc import Sequence

from tocsin.offline.engine import Engine
from tocsin_detectors import Detector, FittingData


def fit_detectors(detectors: Sequence[Detector], safe: FittingData, seed: int, engine: Engine) -> list[Detector]:
    """The detectors, fitted on safe responses."""
    return list(engine.map(_fitted, (safe, seed), detectors))


def _fitted(shared: tuple[FittingData, int], detector: Detector) -> Detector:
    safe, seed = shared
    detector.fit(safe, seed=seed)
    return detector
