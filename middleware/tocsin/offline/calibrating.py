"""Calibration on many recorded files. Each file is a part, which is swept wherever the engine runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.offline.engine import Engine
from tocsin.offline.scoring import ScoreReader, Scores
from tocsin.recording.parquet_files import Mask
from tocsin.recording.reading import Recording
from tocsin_calibration import CalibrationError
from tocsin_calibration.sweeps import Counting, Responses, Rows, checked
from tocsin_calibration.thresholds.counting import RankCounts


class FilePart(NamedTuple):
    """One file, and positions among its responses."""

    recording: Recording
    rows: Rows


class RecordedResponses(Responses):
    """The responses of a recording, swept file by file. `told` is called with how many have been counted."""

    def __init__(
        self,
        scoring: ScoreReader,
        recording: Recording,
        engine: Engine,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.rows = recording.rows
        self._scoring, self._engine, self._on_rows = scoring, engine, on_rows
        self._parts = recording.parts()

    def at(self, rows: Rows) -> Scores:
        parts = [part for part in self._split(rows) if len(part.rows)]
        return np.concatenate(list(self._engine.map(_scores_at, self._scoring, parts)))

    def count(self, counting: Counting, without: Rows) -> RankCounts:
        counts, parts = RankCounts(counting.edges, counting.brackets), self._split(without)
        counts_of_parts = self._engine.map(_counts_of, (self._scoring, counting), parts)
        for part, part_counts in zip(parts, counts_of_parts, strict=True):
            counts.merge(part_counts)
            self._on_rows(part.recording.rows)
        return counts

    def _split(self, rows: Rows) -> Sequence[FilePart]:
        ends = np.cumsum([part.rows for part in self._parts])
        rows_by_file = np.split(rows, np.searchsorted(rows, ends[:-1]))
        starts = ends - [part.rows for part in self._parts]
        return [FilePart(p, r - start) for p, r, start in zip(self._parts, rows_by_file, starts, strict=True)]


def _scores_at(scoring: ScoreReader, part: FilePart) -> Scores:
    return scoring.all(part.recording, ~_unused_rows(part))


def _counts_of(shared: tuple[ScoreReader, Counting], part: FilePart) -> RankCounts:
    scoring, counting = shared
    return counting.counted(_finite_batches(part.recording, scoring(part.recording, _unused_rows(part))))


def _unused_rows(part: FilePart) -> Mask:
    others = np.ones(part.recording.rows, bool)
    others[part.rows] = False
    return others


def _finite_batches(recording: Recording, batches: Iterable[Scores]) -> Iterator[NDArray[np.float64]]:
    """The batches, checked. Raises CalibrationError naming the file when some scores are not finite."""
    for scores in batches:
        try:
            yield checked(scores)
        except CalibrationError as error:
            raise CalibrationError(f"{recording.files[0].path}: {error}") from error
