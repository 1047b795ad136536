"""What a score is: detectors fitted on safe responses, run as one ONNX graph."""

from tocsin_detectors.detector import Detector
from tocsin_detectors.energy import Energy
from tocsin_detectors.entropy import Entropy
from tocsin_detectors.errors import DetectorError, GraphError, SignalError
from tocsin_detectors.gen import GeneralisedEntropy
from tocsin_detectors.graph import compile
from tocsin_detectors.kl_matching import KLMatching
from tocsin_detectors.knn import NearestNeighbours
from tocsin_detectors.mahalanobis import Mahalanobis
from tocsin_detectors.margin import Margin
from tocsin_detectors.max_logit import MaxLogit
from tocsin_detectors.max_softmax import MaxSoftmax
from tocsin_detectors.observation import Observations
from tocsin_detectors.pca_residual import PCAResidual
from tocsin_detectors.rnd import RandomNetworkDistillation
from tocsin_detectors.scorer import Scorer
from tocsin_detectors.vim import VirtualLogit

__all__ = [
    "Detector",
    "DetectorError",
    "Energy",
    "Entropy",
    "GeneralisedEntropy",
    "GraphError",
    "KLMatching",
    "Mahalanobis",
    "Margin",
    "MaxLogit",
    "MaxSoftmax",
    "NearestNeighbours",
    "Observations",
    "PCAResidual",
    "RandomNetworkDistillation",
    "Scorer",
    "SignalError",
    "VirtualLogit",
    "compile",
]
