"""Which rows of a recording are for fitting, for calibrating and for evaluating, so that none is used twice.

Each file is divided by shuffles that its own SHA-256 and seeds decide; what a bundle was fitted and calibrated on is
written down in it file by file, and what comes later leaves exactly those rows out, also when more files have come
since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tocsin.recording.reading import Mask, RecordedFile

CALIBRATING = 1  # told apart from the shuffle for fitting, which has none


def fitting_rows(file: RecordedFile, share: float, seed: int) -> Mask:
    """The rows of a file that are for fitting: `share` of the model's."""
    return _share(file, file.kept, share, [seed])


def unfitted_rows(file: RecordedFile, fitted: Mapping[str, Any]) -> Mask:
    """The rows of a file that a bundle with this `fitted` record has not seen."""
    if file.sha256 not in fitted.get("files", {}):
        return file.kept
    return file.kept & ~fitting_rows(file, float(fitted["share"]), int(fitted["seed"]))


def calibration_rows(file: RecordedFile, fitted: Mapping[str, Any], share: float, seed: int) -> Mask:
    """The rows of a file that are for calibrating: `share` of those that fitting has not seen."""
    return _share(file, unfitted_rows(file, fitted), share, [seed, CALIBRATING])


def unseen_rows(file: RecordedFile, made: Mapping[str, Any]) -> Mask:
    """The rows of a file that neither fitting nor calibrating has seen, by the records of a bundle's making."""
    fitted, calibrated = made.get("fitted", {}), made.get("calibrated", {})
    rows = unfitted_rows(file, fitted)
    if file.sha256 not in calibrated.get("files", {}):
        return rows
    return rows & ~calibration_rows(file, fitted, float(calibrated["share"]), int(calibrated["seed"]))


def _share(file: RecordedFile, rows: Mask, share: float, seeds: list[int]) -> Mask:
    own = np.flatnonzero(rows)
    order = np.random.default_rng([*seeds, int(file.sha256[:16], 16)]).permutation(len(own))
    chosen = np.zeros(len(file.kept), bool)
    chosen[own[order[: round(len(own) * share)]]] = True
    return chosen
