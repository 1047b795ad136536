"""Names of detectors -> classes. A new one of ours is a line here; others register the entry point group."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from tocsin_detectors.detector import Detector
from tocsin_detectors.errors import DetectorError

ENTRY_POINTS = "tocsin.detectors"

BUILT_IN = {
    "energy": "tocsin_detectors.energy:Energy",
    "entropy": "tocsin_detectors.entropy:Entropy",
    "gen": "tocsin_detectors.gen:GeneralisedEntropy",
    "kl_matching": "tocsin_detectors.kl_matching:KLMatching",
    "knn": "tocsin_detectors.knn:NearestNeighbours",
    "mahalanobis": "tocsin_detectors.mahalanobis:Mahalanobis",
    "margin": "tocsin_detectors.margin:Margin",
    "max_logit": "tocsin_detectors.max_logit:MaxLogit",
    "max_softmax": "tocsin_detectors.max_softmax:MaxSoftmax",
    "pca_residual": "tocsin_detectors.pca_residual:PCAResidual",
    "rnd": "tocsin_detectors.rnd:RandomNetworkDistillation",
    "vim": "tocsin_detectors.vim:VirtualLogit",
}


def names() -> list[str]:
    """Every detector that can be named, those of other installed packages included."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def find(name: str) -> type[Any]:
    """The detector class of that name. Raises DetectorError when there is none."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        return point.load()  # type: ignore[no-any-return]
    raise DetectorError(f"there is no detector '{name}'; there is {', '.join(names())}")


def parse(spec: str) -> Detector:
    """A detector from text: NAME, or NAME:SIGNAL to read another signal than its usual one."""
    name, _, signal = spec.partition(":")
    cls = find(name.strip())
    detector: Detector = cls(signal.strip()) if signal.strip() else cls()
    return detector
