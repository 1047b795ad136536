"""Detectors of several answers to one question."""

from tocsin_detectors.answers.eigenvalue_dispersion import EigenvalueDispersion
from tocsin_detectors.answers.embedding_disagreement import EmbeddingDisagreement
from tocsin_detectors.answers.lexical_disagreement import LexicalDisagreement
from tocsin_detectors.answers.predictive_entropy import PredictiveEntropy
from tocsin_detectors.answers.semantic_entropy import SemanticEntropy

__all__ = [
    "EigenvalueDispersion",
    "EmbeddingDisagreement",
    "LexicalDisagreement",
    "PredictiveEntropy",
    "SemanticEntropy",
]
