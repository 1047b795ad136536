"""What a score is: detectors fitted on safe responses, run as one ONNX graph."""

from tocsin_detectors.actions import ActionChunkEntropy, OverlapDisagreement, SampleVariance
from tocsin_detectors.answers import (
    EigenvalueDispersion,
    EmbeddingDisagreement,
    LexicalDisagreement,
    PredictiveEntropy,
    SemanticEntropy,
)
from tocsin_detectors.confidence import (
    Energy,
    Entropy,
    GeneralisedEntropy,
    KLMatching,
    Margin,
    MaxLogit,
    MaxSoftmax,
    TemperatureScaling,
)
from tocsin_detectors.detector import Detector
from tocsin_detectors.embedding import (
    GaussianMixture,
    IsolationForest,
    KMeansDistance,
    LogpZO,
    Mahalanobis,
    NearestNeighbours,
    PCAResidual,
    Probe,
    RandomNetworkDistillation,
    RectifiedActivations,
    RelativeMahalanobis,
    SimplifiedHopfieldEnergy,
    VirtualLogit,
)
from tocsin_detectors.errors import DetectorError, GraphError, SignalError
from tocsin_detectors.features import Features
from tocsin_detectors.graph import compile
from tocsin_detectors.judges import (
    ATTACKS,
    AbstainMass,
    JudgeEntropy,
    JudgeExpectation,
    OrderSwap,
    Resistance,
    Transitivity,
    resist_one_token,
)
from tocsin_detectors.modalities import ModalityDiscrepancy
from tocsin_detectors.observation import FittingData, Observations
from tocsin_detectors.regression import (
    IntervalWidth,
    QuantileAggregation,
    SplitPointClassification,
    SplitPointRegression,
)
from tocsin_detectors.scorer import Scorer
from tocsin_detectors.scores import External
from tocsin_detectors.tokens import MaxSurprisal, MeanSurprisal, Perplexity, Repetition, TokenEntropy, WindowedSurprisal

__all__ = [
    "ATTACKS",
    "AbstainMass",
    "ActionChunkEntropy",
    "Detector",
    "DetectorError",
    "EigenvalueDispersion",
    "EmbeddingDisagreement",
    "Energy",
    "Entropy",
    "External",
    "Features",
    "FittingData",
    "GaussianMixture",
    "GeneralisedEntropy",
    "GraphError",
    "IntervalWidth",
    "IsolationForest",
    "JudgeEntropy",
    "JudgeExpectation",
    "KLMatching",
    "KMeansDistance",
    "LexicalDisagreement",
    "LogpZO",
    "Mahalanobis",
    "Margin",
    "MaxLogit",
    "MaxSoftmax",
    "MaxSurprisal",
    "MeanSurprisal",
    "ModalityDiscrepancy",
    "NearestNeighbours",
    "Observations",
    "OrderSwap",
    "OverlapDisagreement",
    "PCAResidual",
    "Perplexity",
    "PredictiveEntropy",
    "Probe",
    "QuantileAggregation",
    "RandomNetworkDistillation",
    "RectifiedActivations",
    "RelativeMahalanobis",
    "Repetition",
    "Resistance",
    "SampleVariance",
    "Scorer",
    "SemanticEntropy",
    "SignalError",
    "SimplifiedHopfieldEnergy",
    "SplitPointClassification",
    "SplitPointRegression",
    "TemperatureScaling",
    "TokenEntropy",
    "Transitivity",
    "VirtualLogit",
    "WindowedSurprisal",
    "compile",
    "resist_one_token",
]
