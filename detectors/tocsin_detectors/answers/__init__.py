"""Detectors of several answers to one question."""
