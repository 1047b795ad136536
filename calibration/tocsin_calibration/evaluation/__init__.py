"""Evaluation: what was promised beside what is seen, on recordings that calibration never saw."""
