"""Scores of recorded responses: computed from their signals, or read where they were computed before.

A recording of scores, written by `tocsin score`, has a column `score.NAME` for each detector instead of signals, and in
its metadata the SHA-256 of the graph that computed them. The other columns are those of the original recording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import RecordingError
from tocsin.recording.parquet_files import SIGNAL_PREFIX, Mask
from tocsin.recording.reading import RecordedFile, Recording, read_recording, require_pyarrow
from tocsin_calibration import Bundle
from tocsin_detectors import Scorer

Scores = NDArray[np.float32]
SCORE_PREFIX = "score."  # begins the name of a score's column
GRAPH, SOURCE = b"tocsin.graph", b"tocsin.source"  # in a file's metadata: digests of the graph, and of what was scored


class ScoreReader(NamedTuple):
    """How to get the scores of a recording. It may be sent to other processes."""

    graph: bytes
    detectors: tuple[str, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> ScoreReader:
        return cls(bundle.scorer.graph, bundle.scorer.detectors)

    @property
    def digest(self) -> str:
        """The SHA-256 of the graph."""
        return hashlib.sha256(self.graph).hexdigest()

    def __call__(self, recording: Recording, rows: Mask | None = None) -> Iterator[Scores]:
        """Scores (k, d), batch by batch, of all responses or of those in a mask.

        Other responses of a batch are scored with them, because the last bit of a score depends on its batch.
        """
        scorer = None if recording.prefix == SCORE_PREFIX or not recording.rows else _scorer(self.graph)
        start = 0
        for batch in recording.batches():
            picked = np.ones(batch.rows, bool) if rows is None else rows[start : start + batch.rows]
            start += batch.rows
            if picked.any():
                scores = np.column_stack([batch[n] for n in self.detectors]) if scorer is None else scorer(batch)
                yield scores[picked]

    def all(self, recording: Recording, rows: Mask | None = None) -> Scores:
        """The scores of all responses (n, d)."""
        return np.concatenate([np.zeros((0, len(self.detectors)), np.float32), *self(recording, rows)])


def responses_of(bundle: Bundle, path: Path, model: str | None, also: Sequence[str] = ()) -> Recording:
    """The responses of a recording with the signals that the bundle reads, or with its scores where it is a recording
    of scores. Raises RecordingError when another graph computed them.
    """
    model = model or bundle.model or None
    if not _holds_scores(path):
        signals = dict.fromkeys([*bundle.scorer.signals, *also])
        return read_recording(path, model, signals, free=bundle.scorer.free_lengths)
    if also:
        raise RecordingError(f"{path}: holds scores, but no signal '{also[0]}'; name the recording that was scored")
    recording = read_recording(path, model, bundle.scorer.detectors, prefix=SCORE_PREFIX)
    wanted = ScoreReader.of(bundle).digest
    for file in recording.files:
        if _fact(file.path, GRAPH) != wanted:
            raise RecordingError(
                f"{file.path}: holds scores of other detectors, or fitted on other data; run `tocsin score` anew"
            )
    return recording


def write_scores(scoring: ScoreReader, part: Recording, directory: Path) -> RecordedFile | None:
    """Write the scores and the other columns of one file into a directory; None when that was done before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (file,) = part.files
    final = directory / file.path.name
    if final.exists() and (_fact(final, GRAPH), _fact(final, SOURCE)) == (scoring.digest, _source(file)):
        return None
    others = [name for name in pq.read_schema(file.path).names if not name.startswith(SIGNAL_PREFIX)]
    table = pq.read_table(file.path, columns=others).filter(pa.array(file.mask)) if others else None
    scores = scoring.all(part)
    columns = {} if table is None else {name: table.column(name) for name in others}
    columns |= {SCORE_PREFIX + name: pa.array(scores[:, at]) for at, name in enumerate(scoring.detectors)}
    facts = {GRAPH: scoring.digest.encode(), SOURCE: _source(file).encode()}
    staged = final.with_suffix(".part")
    try:
        pq.write_table(pa.table(columns).replace_schema_metadata(facts), staged, compression="zstd")
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    staged.replace(final)
    return file


def _holds_scores(path: Path) -> bool:
    require_pyarrow()
    first = next(iter(sorted(path.glob("*.parquet"))), None) if path.is_dir() else path
    return first is not None and first.exists() and _fact(first, GRAPH) is not None


def _fact(path: Path, key: bytes) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        facts: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise RecordingError(f"{path}: is no Parquet file ({error})") from error
    value = facts.get(key)
    return None if value is None else value.decode()


def _source(file: RecordedFile) -> str:
    """Identifies a file and which of its rows are meant."""
    return hashlib.sha256(file.sha256.encode() + file.bits.tobytes()).hexdigest()


@lru_cache(maxsize=2)
def _scorer(graph: bytes) -> Scorer:
    return Scorer(graph)
