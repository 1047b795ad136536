"""A promise for scores computed elsewhere: splits the rows, calibrates, and compares with a threshold in use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.recording.score_table import ScoreTable
from tocsin_calibration import CalibrationError, Evaluation, Promise, SessionRule, calibrate, calibrate_sessions
from tocsin_calibration import evaluate as make_evaluation
from tocsin_calibration.thresholds.binomial import clopper_pearson
from tocsin_detectors import External, Observations, Scorer, compile

Rows = NDArray[np.intp]
Float32 = NDArray[np.float32]


class Parts(NamedTuple):
    """Row positions: safe rows to calibrate on, safe rows to check the promise on, and rows that should alarm."""

    calibration: Rows
    fresh: Rows
    bad: Rows


class Outcome(NamedTuple):
    """How often a threshold is exceeded: alarms of n safe units and of m that should alarm, each with the exact 99%
    interval of its rate.
    """

    threshold: float
    alarms: int
    n: int
    false_alarms: tuple[float, float]
    caught: int
    m: int
    detection: tuple[float, float]


def signal_name(column: str) -> str:
    """The name of the signal for a column."""
    return re.sub(r"[^A-Za-z0-9_]", "_", column)


def divide(table: ScoreTable, share: float, seed: int) -> Parts:
    """Split the safe rows at random: `share` of them to calibrate on. Sessions stay together, and a session with a bad
    row is bad.
    """
    n = len(table.scores)
    labels = np.zeros(n, bool) if table.labels is None else table.labels
    units = _units(table)
    bad_unit = np.zeros(units.max(initial=-1) + 1, bool)
    bad_unit[units[labels]] = True
    safe = np.flatnonzero(~bad_unit)
    order = np.random.default_rng(seed).permutation(safe)
    drawn = np.zeros(len(bad_unit), bool)
    drawn[order[: round(len(order) * share)]] = True
    return Parts(
        np.flatnonzero(drawn[units]), np.flatnonzero(~drawn[units] & ~bad_unit[units]), np.flatnonzero(bad_unit[units])
    )


def scorer_of(signal: str, table: ScoreTable, *, lower_is_worse: bool) -> Scorer:
    """A graph that passes the score through. Raises SignalError where there are fewer than two."""
    values = Observations({signal: table.scores[:, None]})
    return compile([External(signal, lower_is_worse=lower_is_worse)], fit_on=values)


def calibrated(
    scorer: Scorer,
    table: ScoreTable,
    rows: Rows,
    alphas: Mapping[str, float],
    *,
    confidence: float | None,
    on_average: bool,
    seed: int,
) -> Promise:
    """The promise on these rows: for responses, by group where groups are named, or for sessions where those are.

    Raises CalibrationError where there are too few.
    """
    scores = _scored(scorer, table, rows)
    if table.sessions is not None and table.groups is not None:
        raise CalibrationError("a promise is one for sessions or one for groups: name --session or --group")
    if table.sessions is None:
        groups = None if table.groups is None else [table.groups[row] for row in rows]
        return calibrate(
            scores, alphas, detectors=scorer.detectors, seed=seed, confidence=confidence, on_average=on_average,
            groups=groups,
        )  # fmt: skip
    names = _units(table)[rows]
    by_session = [scores[names == name] for name in dict.fromkeys(names.tolist())]
    return calibrate_sessions(
        by_session, alphas, session=SessionRule(), detectors=scorer.detectors, seed=seed, confidence=confidence,
        on_average=on_average,
    )  # fmt: skip


def evaluated(scorer: Scorer, promise: Promise, table: ScoreTable, parts: Parts) -> Evaluation:
    """What the promise does on fresh safe rows and on those that should alarm."""
    names = _units(table)
    by_session = table.sessions is not None
    bad = _scored(scorer, table, parts.bad) if len(parts.bad) else None
    return make_evaluation(
        promise,
        _scored(scorer, table, parts.fresh),
        groups=None if table.groups is None else [table.groups[row] for row in parts.fresh],
        sessions=[f"{name}" for name in names[parts.fresh]] if by_session else None,
        failures=bad,
        failed_sessions=[f"{name}" for name in names[parts.bad]] if by_session and bad is not None else None,
    )


def thresholds_of(promise: Promise, *, lower_is_worse: bool) -> dict[str, float]:
    """The score beyond which each severity alarms, on the score's own scale; none where each group or step has one."""
    if promise.groups:
        return {}
    sign = -1 if lower_is_worse else 1
    return {name: sign * next(iter(promise.detector_thresholds(name).values())) for name in promise.alphas}


def outcome_at(table: ScoreTable, parts: Parts, threshold: float, *, lower_is_worse: bool) -> Outcome:
    """What a threshold does on the same rows, session by session where there are some."""
    limit = np.float32(threshold)  # scores are: 0.82 in a table is the threshold 0.82
    beyond = table.scores < limit if lower_is_worse else table.scores > limit
    units = _units(table)
    counts = []
    for rows in (parts.fresh, parts.bad):
        alarms, n = len(np.unique(units[rows][beyond[rows]])), len(np.unique(units[rows]))
        counts.append((alarms, n, clopper_pearson(alarms, n) if n else (0.0, 1.0)))
    (alarms, n, false_alarms), (caught, m, detection) = counts
    return Outcome(threshold, alarms, n, false_alarms, caught, m, detection)


def _units(table: ScoreTable) -> NDArray[np.intp]:
    """The unit that each row belongs to (n,): its session's number, or the row itself where sessions are not named or
    the row names none.
    """
    n = len(table.scores)
    if table.sessions is None:
        return np.arange(n)
    numbers: dict[tuple[str, int], int] = {}
    return np.array(
        [numbers.setdefault((name, -1 if name else row), len(numbers)) for row, name in enumerate(table.sessions)],
        np.intp,
    )


def _scored(scorer: Scorer, table: ScoreTable, rows: Rows) -> Float32:
    (signal,) = scorer.signals
    return np.asarray(scorer(Observations({signal: table.scores[rows][:, None]})), np.float32)
