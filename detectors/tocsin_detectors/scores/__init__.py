"""Detectors of what is a score already: the number of somebody else's guardrail, classifier or judge."""
