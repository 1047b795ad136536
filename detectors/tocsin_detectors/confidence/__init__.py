"""Detectors of class probabilities and logits."""

from tocsin_detectors.confidence.energy import Energy
from tocsin_detectors.confidence.entropy import Entropy
from tocsin_detectors.confidence.gen import GeneralisedEntropy
from tocsin_detectors.confidence.kl_matching import KLMatching
from tocsin_detectors.confidence.margin import Margin
from tocsin_detectors.confidence.max_logit import MaxLogit
from tocsin_detectors.confidence.max_softmax import MaxSoftmax
from tocsin_detectors.confidence.temperature_scaling import TemperatureScaling

__all__ = [
    "Energy",
    "Entropy",
    "GeneralisedEntropy",
    "KLMatching",
    "Margin",
    "MaxLogit",
    "MaxSoftmax",
    "TemperatureScaling",
]
