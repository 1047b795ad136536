"""A recording as calibration and evaluation see it: detectors' scores, and columns beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from tocsin.cli.fit import without_broken
from tocsin.errors import RecordingError
from tocsin.recording.reading import Recording, read_recording
from tocsin_calibration import Bundle, CalibrationError
from tocsin_calibration.evaluation.by_session import own_sessions

Scores = NDArray[np.float32]
SESSION, GROUP = "session", "group"  # columns that `tocsin record` writes


def responses_of(bundle: Bundle, path: Path, model: str | None) -> Recording:
    """A recording's responses, with the signals that the bundle reads."""
    return read_recording(path, model or bundle.model or None, bundle.scorer.signals, free=bundle.scorer.free_lengths)


def whole(recording: Recording, leave_out_broken: bool, console: Console) -> Recording:
    """The recording, or what of it holds no NaN or infinity."""
    return without_broken(recording, console) if leave_out_broken else recording


def scores_of(bundle: Bundle, recording: Recording) -> Scores:
    """Detectors' scores (n, d), in the recording's order."""
    if not recording.rows:
        return np.zeros((0, len(bundle.scorer.detectors)), np.float32)
    return np.concatenate([bundle.scorer(batch) for batch in recording.batches()])


def failures_of(bundle: Bundle, path: Path, model: str | None) -> Scores:
    """Scores of a recording of what should alarm. Raises CalibrationError when some are not finite."""
    scores = scores_of(bundle, responses_of(bundle, path, model))
    if not np.isfinite(scores).all():
        raise CalibrationError(f"{path}: holds responses with a NaN or infinite score; serving passes such unscored")
    return scores


def names_in(recording: Recording, column: str) -> list[str]:
    """A column as names."""
    return [str(value) for value in recording.column(column)]


def labels_in(recording: Recording, column: str) -> NDArray[np.bool_]:
    """A column of labels: true or false, 1 or 0. Raises RecordingError on anything else."""
    values = recording.column(column)
    if strange := [value for value in values if value not in (True, False)]:
        raise RecordingError(f"column '{column}' must say true or false, not {strange[0]!r}")
    return np.asarray(values, bool)


def numbers_in(recording: Recording, column: str) -> NDArray[np.float64]:
    """A column of numbers. Raises RecordingError on anything else."""
    try:
        return np.asarray(recording.column(column), np.float64)
    except (TypeError, ValueError) as error:
        raise RecordingError(f"column '{column}' must hold numbers ({error})") from None


def by_session(scores: Scores, sessions: list[str], times: NDArray[np.object_] | None = None) -> list[Scores]:
    """Each session's scores (T_i, d), its responses in the order of their times, else of the recording."""
    names = np.asarray(own_sessions(sessions), str)
    order = np.arange(len(names)) if times is None else np.argsort(times, kind="stable")
    ordered, shown = names[order], scores[order]
    return [shown[ordered == name] for name in dict.fromkeys(ordered.tolist())]
