"""Which responses of a recording to learn from, chosen by how their sessions went, by time, or at random: never by
score.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from tocsin.errors import ConfigError
from tocsin.recording.reading import Recording
from tocsin_calibration import Reservoir, Rolling


class Choice(NamedTuple):
    """Incidents to leave out, each START/END in ISO 8601 (UTC unless told); of what is left the newest, or a sample.

    `sessions`: the column by which sessions stay whole; one that an incident touched is left out.
    """

    exclude: Sequence[str]
    newest: int | None
    sample: int | None
    seed: int
    sessions: str | None = None


def chosen_rows(recording: Recording, choice: Choice, console: Console, path: Path) -> Recording:
    """The responses that a choice leaves, in the recording's order."""
    if not choice.exclude and choice.newest is None and choice.sample is None:
        return recording
    if choice.newest is not None and choice.sample is not None:
        raise ConfigError("--newest and --sample both say which responses to keep: choose one")
    if choice.sessions is not None and (choice.newest or choice.sample):
        raise ConfigError("--newest and --sample choose single responses, and would leave holes in --sessions")
    times = _seconds(recording.column("time"), path)
    size = choice.newest or choice.sample or max(1, recording.rows)
    collection: Rolling | Reservoir = Rolling(size) if choice.sample is None else Reservoir(size, seed=choice.seed)
    for row in np.argsort(times, kind="stable").tolist():
        collection.add(float(times[row]), [float(row)])
    spoilt = np.zeros(len(times), bool)
    for start, end in map(_incident, choice.exclude):
        collection.incident(start, end)
        spoilt |= (times >= start) & (times <= end)
    rows = collection.scores(float("inf"))
    remaining = np.sort(rows[:, 0].astype(np.intp)) if len(rows) else np.zeros(0, np.intp)
    if choice.sessions is not None:
        names = recording.column(choice.sessions)
        remaining = remaining[~np.isin(names[remaining].astype(str), names[spoilt].astype(str))]
    console.print(
        f"kept {len(remaining):,} of {recording.rows:,} responses ({spoilt.sum():,} came during the incidents)"
    )
    return recording.take(remaining)


def of_sessions(recording: Recording, named: Path | None, column: str, console: Console) -> Recording:
    """The responses of sessions that a file names, one a line; all of them without a file.

    Raises ConfigError when it names none that was recorded.
    """
    if named is None:
        return recording
    try:
        wanted = {name for line in named.read_text(encoding="utf-8").splitlines() if (name := line.strip())}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--only {named}: cannot be read: {error}") from None
    names = recording.column(column, "").astype(str)
    rows = np.flatnonzero(np.isin(names, list(wanted)))
    if not len(rows):
        raise ConfigError(f"--only {named}: none of the {len(wanted):,} names in it is in the column '{column}'")
    there, took = len(np.unique(names)), len(np.unique(names[rows]))
    console.print(f"kept {took:,} of {there:,} sessions, {len(rows):,} of {recording.rows:,} responses ({named})")
    return recording.take(rows)


def _seconds(times: NDArray[np.object_], path: Path) -> NDArray[np.float64]:
    if not all(isinstance(t, datetime) for t in times):
        raise ConfigError(f"{path}: column 'time' must hold times, to choose responses by")
    return np.array([_utc(t).timestamp() for t in times])


def _incident(text: str) -> tuple[float, float]:
    """Start and end of a time that is left out, in Unix seconds. Raises ConfigError."""
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
