"""Detectors of disagreement between modalities."""
