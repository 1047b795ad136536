"""Compares a log of scores with a bundle while it is written: alarms, and evidence that the promise holds or breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import NamedTuple

import numpy as np

from tocsin.recording.json_rows import Row, rows_of, value_at
from tocsin.recording.score_table import score_of
from tocsin.replay.replay import tally_of
from tocsin.sinks.evidence import Evidence
from tocsin.state.memory import MemorySessions
from tocsin.unscored import Unscored
from tocsin_calibration import Bundle, CalibrationError
from tocsin_calibration.sessions.rule import Progress

MOST_SESSIONS = 100_000


class LoggedAlarm(NamedTuple):
    """An alarm: its row in the log from 1, its severity, its scores by signal, its p-value, its session and group."""

    row: int
    severity: str
    scores: dict[str, float]
    p: float
    session: str
    group: str


class Standing(NamedTuple):
    """The state of one severity: alarms of n trials, what was promised and is expected, the log of the e-value that the
    promise is broken (None where nothing is promised), and whether that exceeds the limit.
    """

    alarms: int
    n: int
    alpha: float
    expected: tuple[int, int] | None
    evidence: float | None
    broken: bool


class LogWatch:
    """Judges a log's rows in their order. `fields`: where each signal stands in a row; `session`, `group` likewise.

    `delta`: the probability that a promise that is kept is ever called broken. `idle`: seconds of silence after which a
    session has ended. Raises CalibrationError where the bundle reads other things than single scores, or its promise
    needs sessions or groups that are not named.
    """

    def __init__(
        self,
        bundle: Bundle,
        fields: Mapping[str, str],
        *,
        session: str | None = None,
        group: str | None = None,
        delta: float = 0.01,
        restart: int = 1_000,
        idle: float = 600.0,
    ) -> None:
        self._scorer, self.promise = bundle.scorer, bundle.require_promise()
        if wide := [name for name, width in self._scorer.signals.items() if width != 1]:
            raise CalibrationError(f"the bundle's detectors read '{wide[0]}', which is no single score")
        if unknown := set(fields) - set(self._scorer.signals):
            raise CalibrationError(
                f"the bundle reads no score '{sorted(unknown)[0]}' (it reads: {', '.join(self._scorer.signals)})"
            )
        if self.promise.sessions is not None and session is None:
            raise CalibrationError("the bundle promises for sessions: name their field with --session")
        if self.promise.sessions is None and self.promise.groups and group is None:
            raise CalibrationError("the bundle has a promise a group: name their field with --group")
        self._fields = {name: fields.get(name, name) for name in self._scorer.signals}
        self._session, self._group = session, group
        self._sessions = None
        if self.promise.sessions is not None:
            self._sessions = MemorySessions(self.promise.sessions, idle, MOST_SESSIONS)
        self._evidence = Evidence(self.promise, restart, fixed=True)
        self._limit = log(len(self.promise.alphas) / delta)
        self.drift_limit = log(1 / delta)
        self.rows = self.trials = 0
        self.unscored: Counter[str] = Counter()
        self._alarms: Counter[str] = Counter()

    def take(self, lines: Sequence[str]) -> list[LoggedAlarm]:
        """Judge lines of the log; returns the rows that alarm."""
        rows: list[tuple[int, Row, list[float]]] = []
        for line in lines:
            try:
                for row in rows_of(line, self._fields.values()):
                    self.rows += 1
                    self._read(row, rows)
            except Unscored as why:
                self.rows += 1
                self.unscored[why.reason] += 1
        return self._judge(rows) if rows else []

    def end(self) -> None:
        """The log has ended, and so have the open sessions."""
        if self._sessions is not None:
            self._count(self._sessions.finish([key for key, _ in self._sessions.under_way()]), None, [])

    def look(self) -> None:
        """Nothing came for a while: end the sessions that have been silent for too long."""
        if self._sessions is not None:
            self._count(self._sessions.end([], []), None, [])

    def standings(self) -> dict[str, Standing]:
        """The state of each severity, the mildest first."""
        evidence = self._evidence.promise()
        result = {}
        for name, alpha in reversed(self.promise.alphas.items()):
            alarms = sum(self._alarms[other] for other, level in self.promise.alphas.items() if level <= alpha)
            expected = None
            if self.trials and not (self.promise.groups and self.promise.sessions is None):
                expected = self.promise.limits.count_range(name, self.trials)
            value = evidence.get(name)
            is_broken = value is not None and value > self._limit
            result[name] = Standing(alarms, self.trials, alpha, expected, value, is_broken)
        return result

    def drift(self) -> float | None:
        """The log of the e-value that scores have drifted, None where that is not watched."""
        return self._evidence.drift()

    def _read(self, row: Row, rows: list[tuple[int, Row, list[float]]]) -> None:
        try:
            values = [score_of(value_at(row, path), f"'{path}'") for path in self._fields.values()]
        except Unscored as why:
            self.unscored[why.reason] += 1
        else:
            rows.append((self.rows, row, values))

    def _judge(self, rows: Sequence[tuple[int, Row, list[float]]]) -> list[LoggedAlarm]:
        columns = np.array([values for _, _, values in rows], np.float32)
        signals = {name: np.ascontiguousarray(columns[:, at : at + 1]) for at, name in enumerate(self._fields)}
        scores = self._scorer.run(signals)
        groups = [self._name(row, self._group) for _, row, _ in rows] if self._group is not None else None
        names = [self._name(row, self._session) for _, row, _ in rows]
        progress: list[Progress] | None = None
        if self._sessions is not None:
            progress = self._sessions.begin(names, [])
        judged = self.promise.judge(scores, groups, progress)
        if self._sessions is None or progress is None:
            self._count(judged.severities, groups, judged.joint)
        else:
            self._count(self._sessions.end(names, progress), None, [])
        return [
            LoggedAlarm(
                number, severity, dict(zip(self._fields, values, strict=True)), p, name, groups[at] if groups else ""
            )
            for at, ((number, _, values), severity, p, name) in enumerate(
                zip(rows, judged.severities, judged.pvalues, names, strict=True)
            )
            if severity is not None
        ]

    def _count(self, trials: Sequence[str | None], groups: Sequence[str] | None, joint: Sequence[float]) -> None:
        """Count the units of the promise: rows, or sessions that have ended."""
        self.trials += len(trials)
        self._alarms.update(severity for severity in trials if severity is not None)
        self._evidence.read(tally_of(self.promise, trials, groups, joint))

    @staticmethod
    def _name(row: Row, path: str | None) -> str:
        value = None if path is None else value_at(row, path)
        return "" if value is None else str(value)
