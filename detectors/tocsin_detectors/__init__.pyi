from .actions.ace import ActionChunkEntropy
from .actions.sample_variance import SampleVariance
from .actions.stac import OverlapDisagreement
from .answers.eigenvalue_dispersion import EigenvalueDispersion
from .answers.embedding_disagreement import EmbeddingDisagreement
from .answers.lexical_disagreement import LexicalDisagreement
from .answers.predictive_entropy import PredictiveEntropy
from .answers.semantic_entropy import SemanticEntropy
from .confidence.energy import Energy
from .confidence.entropy import Entropy
from .confidence.gen import GeneralisedEntropy
from .confidence.kl_matching import KLMatching
from .confidence.margin import Margin
from .confidence.max_logit import MaxLogit
from .confidence.max_softmax import MaxSoftmax
from .confidence.temperature_scaling import TemperatureScaling
from .detector import Detector
from .embedding.gaussian_mixture import GaussianMixture
from .embedding.isolation_forest import IsolationForest
from .embedding.kmeans_distance import KMeansDistance
from .embedding.knn import NearestNeighbours
from .embedding.logpzo import LogpZO
from .embedding.mahalanobis import Mahalanobis
from .embedding.pca_residual import PCAResidual
from .embedding.probe import Probe
from .embedding.react import RectifiedActivations
from .embedding.relative_mahalanobis import RelativeMahalanobis
from .embedding.rnd import RandomNetworkDistillation
from .embedding.she import SimplifiedHopfieldEnergy
from .embedding.vim import VirtualLogit
from .errors import DetectorError, GraphError, SignalError
from .features import Features
from .graph import compile
from .judges.abstain_mass import AbstainMass
from .judges.judge_entropy import JudgeEntropy
from .judges.judge_expectation import JudgeExpectation
from .judges.one_token import ATTACKS, Resistance, resist_one_token
from .judges.order_swap import OrderSwap
from .judges.transitivity import Transitivity
from .modalities.modality_discrepancy import ModalityDiscrepancy
from .observation import FittingData, Observations
from .regression.interval_width import IntervalWidth
from .regression.quantile_aggregation import QuantileAggregation
from .regression.split_point_classification import SplitPointClassification
from .regression.split_point_regression import SplitPointRegression
from .scorer import Scorer
from .scores.external import External
from .tokens.max_surprisal import MaxSurprisal
from .tokens.mean_surprisal import MeanSurprisal
from .tokens.perplexity import Perplexity
from .tokens.repetition import Repetition
from .tokens.token_entropy import TokenEntropy
from .tokens.windowed_surprisal import WindowedSurprisal

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
