"""Detectors of sampled actions and trajectories."""
