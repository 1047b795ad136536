"""Which rows of a recording are for fitting, so that calibration never sees them again.

Each file is divided by a shuffle that its own SHA-256 and a seed decide; what a bundle was fitted on is written down
in it file by file, and calibration leaves exactly those rows out, also when more files have come since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tocsin.recording.reading import Mask, RecordedFile


def fitting_rows(file: RecordedFile, share: float, seed: int) -> Mask:
    """The rows of a file that are for fitting: `share` of the model's."""
    own = np.flatnonzero(file.kept)
    order = np.random.default_rng([seed, int(file.sha256[:16], 16)]).permutation(len(own))
    rows = np.zeros(len(file.kept), bool)
    rows[own[order[: round(len(own) * share)]]] = True
    return rows


def calibration_rows(file: RecordedFile, fitted: Mapping[str, Any]) -> Mask:
    """The rows of a file that a bundle with this `fitted` record has not seen."""
    if file.sha256 not in fitted.get("files", {}):
        return file.kept
    return file.kept & ~fitting_rows(file, float(fitted["share"]), int(fitted["seed"]))
