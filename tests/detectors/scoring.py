"""What tests of detectors share: the scores of what was fitted on, and a definition row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse


def score(spec: str, **signals: np.ndarray) -> np.ndarray:
    """Scores of the responses that the detector was fitted on."""
    rows = Observations(signals)
    return compile([parse(spec)], fit_on=rows)(rows)[:, 0]


def by_row(function: Any, *signals: np.ndarray) -> np.ndarray:
    return np.array([function(*row) for row in zip(*signals, strict=True)])
