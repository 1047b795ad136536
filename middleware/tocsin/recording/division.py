"""Which rows of a recording are for fitting, so that calibration never sees them again.

Each file is divided by a shuffle that its own SHA-256 and a seed decide; what a bundle was fitted on is written down
in it file by file, and calibration leaves exactly those rows out, also when more files have come since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin.recording.reading import RecordedFile
from tocsin_detectors import Observations


def fitting_rows(file: RecordedFile, share: float, seed: int) -> NDArray[np.intp]:
    """The rows of a file that are for fitting: `share` of them."""
    rows = file.observations.rows
    return np.sort(_order(file, seed)[: round(rows * share)])


def calibration_rows(file: RecordedFile, fitted: Mapping[str, Any]) -> NDArray[np.intp]:
    """The rows of a file that a bundle with this `fitted` record has not seen."""
    rows = np.arange(file.observations.rows)
    if file.sha256 not in fitted.get("files", {}):
        return rows
    return np.setdiff1d(rows, fitting_rows(file, float(fitted["share"]), int(fitted["seed"])))


def joined(parts: Iterable[Observations]) -> Observations:
    """Observations one after the other."""
    every = list(parts)
    return Observations({name: np.concatenate([part[name] for part in every]) for name in every[0]})


def _order(file: RecordedFile, seed: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, int(file.sha256[:16], 16)]).permutation(file.observations.rows)
