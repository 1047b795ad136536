"""Detectors of regression outputs and quantiles."""
