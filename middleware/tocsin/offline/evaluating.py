"""Evaluation on many recorded files: alarms are counted file by file, and the counts are added up."""

from __future__ import annotations

from tocsin.offline.engine import Engine
from tocsin.offline.scoring import ScoreReader
from tocsin.recording.reading import Recording
from tocsin_calibration import Evaluation, Promise
from tocsin_calibration.evaluation.counted import AlarmCounts


def evaluate_files(promise: Promise, scoring: ScoreReader, recording: Recording, engine: Engine) -> Evaluation:
    """The part of `evaluate` about alarms among safe responses, in memory that does not grow with their number."""
    counts = AlarmCounts(promise)
    for part_counts in engine.map(_counts_of, (promise, scoring), recording.parts()):
        counts.merge(part_counts)
    return counts.evaluation(promise)


def _counts_of(shared: tuple[Promise, ScoreReader], part: Recording) -> AlarmCounts:
    promise, scoring = shared
    counts = AlarmCounts(promise)
    for scores in scoring(part):
        counts.add(promise, scores)
    return counts
