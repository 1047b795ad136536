"""Fitting, scoring, calibrating and evaluating over many recorded files, here or on a Ray cluster."""
