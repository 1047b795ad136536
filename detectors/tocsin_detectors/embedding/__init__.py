"""Detectors of embeddings and features."""

from tocsin_detectors.embedding.gaussian_mixture import GaussianMixture
from tocsin_detectors.embedding.isolation_forest import IsolationForest
from tocsin_detectors.embedding.kmeans_distance import KMeansDistance
from tocsin_detectors.embedding.knn import NearestNeighbours
from tocsin_detectors.embedding.logpzo import LogpZO
from tocsin_detectors.embedding.mahalanobis import Mahalanobis
from tocsin_detectors.embedding.pca_residual import PCAResidual
from tocsin_detectors.embedding.probe import Probe
from tocsin_detectors.embedding.react import RectifiedActivations
from tocsin_detectors.embedding.relative_mahalanobis import RelativeMahalanobis
from tocsin_detectors.embedding.rnd import RandomNetworkDistillation
from tocsin_detectors.embedding.she import SimplifiedHopfieldEnergy
from tocsin_detectors.embedding.vim import VirtualLogit

__all__ = [
    "GaussianMixture",
    "IsolationForest",
    "KMeansDistance",
    "LogpZO",
    "Mahalanobis",
    "NearestNeighbours",
    "PCAResidual",
    "Probe",
    "RandomNetworkDistillation",
    "RectifiedActivations",
    "RelativeMahalanobis",
    "SimplifiedHopfieldEnergy",
    "VirtualLogit",
]
