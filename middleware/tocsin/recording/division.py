"""Which rows of a recording are for fitting, for calibrating and for evaluating, so that none is used twice.

Rows are divided by shuffles that each file's own SHA-256 and seeds decide; sessions, where they must stay whole, by a
hash of their names, which puts a session on the same side in every file. What a bundle was fitted and calibrated on is
written down in it file by file, and what comes later leaves exactly those rows out, also when more files have come
since.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import RecordingError
from tocsin.recording.parquet_files import Mask
from tocsin.recording.reading import RecordedFile
from tocsin_calibration import uniforms

CALIBRATING = 1  # told apart from the division for fitting


class Division(NamedTuple):
    """The share of the rows, drawn by `seed`, that is used: single rows, or whole sessions named by a column."""

    share: float
    seed: int
    sessions: str | None = None

    def facts(self) -> dict[str, Any]:
        """The division as a bundle records it."""
        return self._asdict()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Division:
        """The division that a bundle recorded."""
        return cls(float(record["share"]), int(record["seed"]), record.get("sessions"))


def fitting_rows(file: RecordedFile, division: Division) -> Mask:
    """The rows of a file that are for fitting."""
    return _share(file, file.mask, division, 0)


def unfitted_rows(file: RecordedFile, fitted: Mapping[str, Any]) -> Mask:
    """The rows of a file that a bundle with this `fitted` record has not seen."""
    if file.sha256 not in fitted.get("files", {}):
        return file.mask
    return file.mask & ~fitting_rows(file, Division.of(fitted))


def calibration_rows(file: RecordedFile, fitted: Mapping[str, Any], division: Division) -> Mask:
    """The rows of a file for calibrating: a share of those that fitting has not seen.

    Raises RecordingError when sessions are to stay whole, but fitting has used single rows of them.
    """
    unfitted = unfitted_rows(file, fitted)
    if division.sessions is not None:
        require_whole_sessions(file, fitted, division.sessions)
    return _share(file, unfitted, division, CALIBRATING)


def unseen_rows(file: RecordedFile, provenance: Mapping[str, Any]) -> Mask:
    """The rows of a file that neither fitting nor calibrating has seen, by the records of a bundle's making."""
    fitted, calibrated = provenance.get("fitted", {}), provenance.get("calibrated", {})
    rows = unfitted_rows(file, fitted)
    if file.sha256 not in calibrated.get("files", {}):
        return rows
    return rows & ~calibration_rows(file, fitted, Division.of(calibrated))


def require_whole_sessions(file: RecordedFile, record: Mapping[str, Any], sessions: str) -> None:
    """Raises RecordingError when fitting or calibration has used single rows of a file's sessions."""
    if file.sha256 in record.get("files", {}) and record["share"] < 1 and record.get("sessions") != sessions:
        raise RecordingError(
            f"{file.path}: single responses of it were used before, so its sessions have holes; use --sessions "
            f"{sessions} from `tocsin fit` on, which keeps sessions whole, or another recording"
        )


def _share(file: RecordedFile, rows: Mask, division: Division, step: int) -> Mask:
    if division.sessions is not None:
        names = _names(file.path, file.sha256, division.sessions)
        return rows & (uniforms([f"{step}/{name}" for name in names], division.seed) <= division.share)
    if division.share == 1:
        return rows
    candidates = np.flatnonzero(rows)
    seeds = [division.seed, *([step] if step else []), int(file.sha256[:16], 16)]
    order = np.random.default_rng(seeds).permutation(len(candidates))
    chosen = np.zeros(len(file.mask), bool)
    chosen[candidates[order[: round(len(candidates) * division.share)]]] = True
    return chosen


@lru_cache(maxsize=64)
def _names(path: Path, sha256: str, column: str) -> NDArray[np.str_]:
    import pyarrow.parquet as pq

    if column not in pq.read_schema(path).names:
        raise RecordingError(f"{path}: has no column '{column}' to tell sessions apart by")
    names = pq.read_table(path, columns=[column]).column(column).to_pylist()
    # A response that names no session is one of its own.
    return np.asarray([str(name) if name else f"{sha256}/{row}" for row, name in enumerate(names)])
