"""Scores of a generative robot policy's rollouts, from which failures are to be predicted (FIPER)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "robot"))  # the scene: its policies and rollouts
