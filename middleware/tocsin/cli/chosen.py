"""Which responses of a recording to calibrate on, chosen by time and by lot, never by score."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from tocsin.errors import ConfigError
from tocsin.recording.reading import Recording
from tocsin_calibration import Reservoir, Rolling


def chosen(
    recording: Recording,
    exclude: list[str],
    newest: int | None,
    sample: int | None,
    seed: int,
    console: Console,
    path: Path,
) -> Recording:
    """What is left without the incidents, each START/END in ISO 8601 (UTC unless told); of that the newest, or a
    sample."""
    if not exclude and newest is None and sample is None:
        return recording
    if newest is not None and sample is not None:
        raise ConfigError("--newest and --sample both say which responses to keep: choose one")
    times = _seconds(recording.column("time"), path)
    size = newest or sample or max(1, recording.rows)
    kept: Rolling | Reservoir = Reservoir(size, seed=seed) if sample is not None else Rolling(size)
    for row in np.argsort(times, kind="stable").tolist():
        kept.add(float(times[row]), [float(row)])
    incidents = [_incident(text) for text in exclude]
    for start, end in incidents:
        kept.incident(start, end)
    rows = kept.scores(float("inf"))
    left = recording.take(np.sort(rows[:, 0].astype(np.intp)) if len(rows) else np.zeros(0, np.intp))
    spoilt = sum(int(((times >= start) & (times <= end)).sum()) for start, end in incidents)
    console.print(f"kept {left.rows:,} of {recording.rows:,} responses ({spoilt:,} came during the incidents)")
    return left


def _seconds(times: NDArray[np.object_], path: Path) -> NDArray[np.float64]:
    if not all(isinstance(t, datetime) for t in times):
        raise ConfigError(f"{path}: column 'time' must hold times, to choose responses by")
    return np.array([_utc(t).timestamp() for t in times])


def _incident(text: str) -> tuple[float, float]:
    start, slash, end = text.partition("/")
    try:
        if not slash:
            raise ValueError
        return _utc(datetime.fromisoformat(start)).timestamp(), _utc(datetime.fromisoformat(end)).timestamp()
    except ValueError:
        raise ConfigError(
            f"--exclude is START/END in ISO 8601, such as 2026-11-24T06:00/2026-11-24T07:30, not '{text}'"
        ) from None


def _utc(time: Any) -> datetime:
    moment: datetime = time
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
