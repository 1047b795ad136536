"""Detectors of embeddings and features."""
