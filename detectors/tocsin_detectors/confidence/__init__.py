"""Detectors of class probabilities and logits."""
