"""Detectors of what is a score already: the number of somebody else's guardrail, classifier or judge."""

from tocsin_detectors.scores.external import External

__all__ = ["External"]
