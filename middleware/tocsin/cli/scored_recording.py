"""A recording as calibration and evaluation see it: detectors' scores, and columns beside them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from tocsin.cli.fit import without_broken
from tocsin.errors import RecordingError
from tocsin.offline.scoring import ScoreReader, Scores, responses_of
from tocsin.recording.reading import Recording
from tocsin_calibration import Bundle, CalibrationError
from tocsin_calibration.thresholds.classes import Classes


def require_finite(
    recording: Recording, leave_out_broken: bool, console: Console, masked: Collection[str] = ()
) -> Recording:
    """The recording, or what of it holds no NaN or infinity, but for -inf in `masked` signals."""
    return without_broken(recording, console, masked) if leave_out_broken else recording


class ScoredRecording:
    """Detectors' scores (n, d) of a recording, and its columns, in the order of `time` where the recording tells it."""

    def __init__(self, bundle: Bundle, recording: Recording) -> None:
        self.rows = recording.rows
        self.columns = recording.columns()
        self._recording = recording
        self._order = np.arange(recording.rows)
        if recording.rows and "time" in self.columns:
            self._order = np.argsort(recording.column("time"), kind="stable")
        self.scores: Scores = ScoreReader.of(bundle).all(recording)[self._order]

    def take(self, rows: NDArray[np.intp]) -> ScoredRecording:
        """Only these rows of it."""
        selection = copy(self)
        selection.scores, selection._order, selection.rows = self.scores[rows], self._order[rows], len(rows)
        return selection

    def names(self, column: str) -> list[str]:
        """A column as names (n,); what names nothing is ''."""
        return [str(value) for value in self._recording.column(column, missing="")[self._order]]

    def values(self, column: str) -> list[object]:
        """A column as it is (n,). Raises RecordingError where it is not there, or lacks values."""
        return list(self._recording.column(column)[self._order])

    def labels(self, column: str) -> NDArray[np.bool_]:
        """A column of labels (n,): true or false, 1 or 0. Raises RecordingError on anything else."""
        return labels_in(self._recording, column)[self._order]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """A column of numbers (n,). Raises RecordingError on anything else."""
        try:
            return np.asarray(self._recording.column(column)[self._order], np.float64)
        except (TypeError, ValueError) as error:
            raise RecordingError(f"column '{column}' must hold numbers ({error})") from None

    def signal(self, name: str) -> Scores:
        """One signal (n, width)."""
        return np.asarray(np.concatenate([batch[name] for batch in self._recording.batches()])[self._order], np.float32)

    def classes(self, classes: Classes) -> list[str]:
        """The names (n,) of the classes that a signal names. Raises RecordingError where it has another width."""
        values = self.signal(classes.signal)
        if values.shape[1] != classes.width:
            raise RecordingError(
                f"signal '{classes.signal}' has width {values.shape[1]}, but the bundle's classes are named by "
                f"{classes.width} numbers"
            )
        return classes.of(values)

    def signals(self) -> Scores:
        """All signals side by side (n, width)."""
        parts = [np.hstack([batch[name] for name in sorted(batch)]) for batch in self._recording.batches()]
        return np.asarray(np.concatenate(parts)[self._order], np.float32)


def labels_in(recording: Recording, column: str) -> NDArray[np.bool_]:
    """A column of labels (n,), in the recording's own order: true or false, 1 or 0.

    Raises RecordingError on anything else.
    """
    values = recording.column(column)
    if strange := [value for value in values if value not in (True, False)]:
        raise RecordingError(f"column '{column}' must say true or false, not {strange[0]!r}")
    return np.asarray(values, bool)


def failures_in(bundle: Bundle, path: Path, model: str | None, also: Sequence[str] = ()) -> ScoredRecording:
    """A recording of what should alarm, with signals that are read besides the detectors'.

    Raises CalibrationError when some scores are not finite.
    """
    scored = ScoredRecording(bundle, responses_of(bundle, path, model, also))
    if not np.isfinite(scored.scores).all():
        raise CalibrationError(f"{path}: holds responses with a NaN or infinite score; serving passes such unscored")
    return scored
