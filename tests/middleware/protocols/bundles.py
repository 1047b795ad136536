"""A bundle of some detectors, for tests of protocols."""

from __future__ import annotations

from pathlib import Path

from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse


def bundle_of(path: Path, specs: list[str], safe: Observations) -> Path:
    scorer = compile([parse(spec) for spec in specs], fit_on=safe)
    promise = calibrate(scorer(safe), {"warning": 0.1}, detectors=scorer.detectors)
    Bundle(scorer, promise, "m").write(path)
    return path
