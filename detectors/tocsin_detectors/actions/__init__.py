"""Detectors of sampled actions and trajectories."""

from tocsin_detectors.actions.ace import ActionChunkEntropy
from tocsin_detectors.actions.sample_variance import SampleVariance
from tocsin_detectors.actions.stac import OverlapDisagreement

__all__ = ["ActionChunkEntropy", "OverlapDisagreement", "SampleVariance"]
