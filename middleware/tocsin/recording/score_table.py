"""A table of scores that were computed elsewhere: CSV, Parquet, JSON lines, or spans in OTLP JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import RecordingError
from tocsin.protocols.metadata import number_in
from tocsin.recording.converting import columns_of
from tocsin.recording.json_rows import Row, rows_of, value_at
from tocsin.unscored import Unscored

TABLES, JSON_LINES = (".parquet", ".csv"), (".jsonl", ".ndjson", ".json")
KINDS = ".csv, .parquet, or JSON lines (.jsonl, .ndjson, .json; also spans in OTLP JSON)"
LARGEST = float(np.finfo(np.float32).max)

_LABELS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class ScoreTable(NamedTuple):
    """Rows in the file's order: scores (n,), and where requested labels (n,), sessions and groups (n,).

    `left_out` counts the rows without a score, by reason.
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.bool_] | None
    sessions: list[str] | None
    groups: list[str] | None
    left_out: dict[str, int]


def score_of(value: Any, where: str) -> float:
    """A value as a score, parsed as serving parses it: a number, or text that holds one.

    Raises Unscored: `missing_signal` for an empty value, `dtype` for what is not a number, `not_finite` for what
    float32 cannot hold.
    """
    if isinstance(value, str):
        return number_in(value, where)
    if value is None:
        raise Unscored("missing_signal", f"{where} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unscored("dtype", f"{where} is no number")
    if not -LARGEST <= value <= LARGEST or not isfinite(value):
        raise Unscored("not_finite", f"{where} is NaN, infinite, or larger than a score can be")
    return float(value)


def read_scores(
    path: Path, score: str, *, label: str | None, session: str | None, group: str | None, leave_out_broken: bool
) -> ScoreTable:
    """The scores of a file, in the columns (or dotted paths, in JSON) that are named.

    Raises RecordingError: no such file or column, another kind of file, a row without a score unless
    `leave_out_broken`, a label that does not say true or false.
    """
    scores: list[float] = []
    labels: list[bool] = []
    sessions: list[str] = []
    groups: list[str] = []
    left_out: dict[str, int] = {}
    for number, row in _rows(path, [name for name in (score, label, session, group) if name is not None]):
        try:
            if isinstance(row, Unscored):
                raise row
            value = score_of(value_at(row, score), f"'{score}'")
        except Unscored as why:
            if not leave_out_broken:
                raise RecordingError(
                    f"{path}: row {number:,}: {why}; leave such rows out with --leave-out-broken (serving passes them "
                    f"unscored)"
                ) from None
            left_out[why.reason] = left_out.get(why.reason, 0) + 1
            continue
        scores.append(value)
        if label is not None:
            labels.append(_label(value_at(row, label), f"{path}: row {number:,}: '{label}'"))
        if session is not None:
            sessions.append(_name(value_at(row, session)))
        if group is not None:
            groups.append(_name(value_at(row, group)))
    return ScoreTable(
        np.array(scores, np.float32),
        None if label is None else np.array(labels, bool),
        None if session is None else sessions,
        None if group is None else groups,
        left_out,
    )


def _rows(path: Path, names: list[str]) -> Iterator[tuple[int, Row | Unscored]]:
    """Each row with its number, from 1; of one that cannot be read, why."""
    if path.suffix in JSON_LINES:
        number = 0
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    for row in rows_of(line, names[:1]):
                        number += 1
                        yield number, row
                except Unscored as why:
                    number += 1
                    yield number, why
        return
    if path.suffix not in TABLES:
        raise RecordingError(f"{path}: what ends in '{path.suffix}' cannot be read; it must be {KINDS}")
    columns = columns_of(path)
    for name in names:
        if name not in columns:
            raise RecordingError(f"{path}: has no column '{name}' (it has: {', '.join(columns)})")
    values: Mapping[str, Any] = {name: columns[name].to_pylist() for name in dict.fromkeys(names)}  # type: ignore[union-attr]
    for number, row_values in enumerate(zip(*values.values(), strict=True), 1):
        yield number, dict(zip(values, row_values, strict=True))


def _label(value: Any, where: str) -> bool:
    said = _LABELS.get(str(value).strip().lower())
    if isinstance(value, float):
        said = {0.0: False, 1.0: True}.get(value)
    if said is None:
        raise RecordingError(f"{where} must say true or false (or 1 or 0), not {value!r}")
    return said


def _name(value: Any) -> str:
    return "" if value is None else str(value)
