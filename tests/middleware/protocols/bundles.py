"""A bundle of some detectors, for tests of protocols."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tocsin_calibration import Bundle, calibrate, calibrate_sessions
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse


def bundle_of(path: Path, specs: list[str], safe: Observations, *, sessions: bool = False) -> Path:
    """Write a bundle that warns of a tenth of `safe`. With `sessions`, each four rows are one session."""
    scorer = compile([parse(spec) for spec in specs], fit_on=safe)
    scores, levels = scorer(safe), {"warning": 0.1}
    if sessions:
        promise = calibrate_sessions(np.split(scores, len(scores) // 4), levels, detectors=scorer.detectors)
    else:
        promise = calibrate(scores, levels, detectors=scorer.detectors)
    Bundle(scorer, promise, "m").write(path)
    return path
