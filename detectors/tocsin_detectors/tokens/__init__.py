"""Detectors of token streams."""
