"""Scores of a generative robot policy's rollouts, from which failures are to be predicted (FIPER)."""
