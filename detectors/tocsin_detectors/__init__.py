"""What a score is: detectors fitted on safe responses, run as one ONNX graph."""

from tocsin_detectors.detector import Detector
from tocsin_detectors.energy import Energy
from tocsin_detectors.entropy import Entropy
from tocsin_detectors.errors import DetectorError, GraphError, SignalError
from tocsin_detectors.graph import compile
from tocsin_detectors.mahalanobis import Mahalanobis
from tocsin_detectors.observation import Observations
from tocsin_detectors.rnd import RandomNetworkDistillation
from tocsin_detectors.scorer import Scorer

__all__ = [
    "Detector",
    "DetectorError",
    "Energy",
    "Entropy",
    "GraphError",
    "Mahalanobis",
    "Observations",
    "RandomNetworkDistillation",
    "Scorer",
    "SignalError",
    "compile",
]
