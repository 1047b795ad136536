"""Sessions in a Redis that replicas share, so that the calls of a session may reach any of them.

Before a batch, the windows of its sessions are fetched and its scores appended in one round trip; the result is
computed here, by the same code as without Redis. A severity that was raised is written back, which is rare.

While Redis is unavailable, sessions continue with what this process has seen since. Its scores are appended when Redis
is back, each batch once: a batch that was added although its answer was lost is recognised by its number.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterable, Sequence
from math import isnan
from typing import Any, NamedTuple
from uuid import uuid4

from tocsin.state.memory import MemorySessions
from tocsin.state.redis_connection import RedisConnection, RedisUnavailable, ScriptCall
from tocsin.state.scripts import ENDED, FORGET, GRADE, HEARD, PUSH
from tocsin_calibration import SessionRule
from tocsin_calibration.sessions.rule import Progress

MAX_UNSENT_SCORES = 100_000  # scores that wait for Redis; those beyond are lost, and counted
COMMANDS_PER_ROUND_TRIP = 500  # commands of one round trip


class Chunk(NamedTuple):
    """Scores of one session in one batch."""

    batch: str
    session: str
    scores: tuple[float, ...]


class _Open(NamedTuple):
    """A session of the batch that is being judged: its grade and the number of its stretch before."""

    session: str
    progress: Progress
    grade: int
    stretch: int


class _Had(NamedTuple):
    """What Redis knew of a session before a batch: its grade with the stretch's number, and how a session that ended by
    silence had ended.
    """

    steps: int
    scores: list[float]
    grade: int | None
    stretch: int
    ended: str | None


class RedisSessions:
    """The sessions of one model, under `name`. `severities` are those of its promise, the most severe first. `idle`
    seconds of silence end a session. When there are more than `most`, the one that was silent longest ends.
    """

    shared = True

    def __init__(
        self,
        connection: RedisConnection,
        name: str,
        rule: SessionRule,
        severities: Sequence[str],
        idle: float,
        most: int,
    ) -> None:
        self._connection, self._name, self._rule = connection, name, rule
        self._severities = list(severities)
        self._idle, self._most = max(1, round(1e3 * idle)), most
        self._alone = MemorySessions(rule, idle, most)  # while Redis is away
        self._unsent: list[Chunk] = []
        self._waiting = 0  # scores in them
        self.lost = 0  # scores that found no room there
        self._batches, self._process = itertools.count(1), uuid4().hex[:12]
        self._open: list[_Open] = []
        self._ended: list[str | None] = []
        self._counted = threading.Lock()  # of what has ended
        self.lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Scores that wait for Redis to come back."""
        return self._waiting

    def begin(self, keys: Sequence[str], joint: Sequence[float]) -> list[Progress]:
        """See SessionStore."""
        by_session: dict[str, list[float]] = {}
        for key, score in zip(keys, joint, strict=True):
            if key:
                by_session.setdefault(_redis_name(key), []).append(score)
        batch = f"{self._process}-{next(self._batches)}"
        chunks = [Chunk(batch, session, tuple(scores)) for session, scores in by_session.items()]
        by_session_progress: dict[str, Progress] = {}
        self._open = []
        if chunks:
            try:
                if self._unsent:
                    raise RedisUnavailable  # what came before must be there first
                replies = self._connection.run_and_read(
                    [*(self._push(chunk) for chunk in chunks), self._heard(by_session)], self._read_pushed
                )
            except RedisUnavailable:
                by_session_progress = {session: self._alone.of(session) for session in by_session}
                self._keep(chunks)
            else:
                for chunk, had in zip(chunks, replies, strict=True):
                    severity = None if had.grade is None else self._severities[had.grade]
                    progress = self._rule.resume(had.scores, had.steps, severity)
                    by_session_progress[chunk.session] = progress
                    grade = len(self._severities) if had.grade is None else had.grade
                    self._open.append(_Open(chunk.session, progress, grade, had.stretch))
                    self._count(had.ended)
        return [by_session_progress[_redis_name(key)] if key else self._rule.start() for key in keys]

    def end(self, keys: Sequence[str], progress: Sequence[Progress]) -> list[str | None]:
        """See SessionStore."""
        raised = []
        for session, chunk, grade, stretch in self._open:
            now = len(self._severities) if chunk.severity is None else self._severities.index(chunk.severity)
            if now < (len(self._severities) if chunk.ended else grade):
                raised.append(ScriptCall(GRADE, self._key(session), [now, stretch + len(chunk.ended)]))
        if raised:
            try:
                self._connection.run(raised)
            except RedisUnavailable:
                self.lost += len(raised)
        here = {id(chunk.progress) for chunk in self._open}
        alone = [(key, chunk) for key, chunk in zip(keys, progress, strict=True) if id(chunk) not in here]
        ended = self._alone.ended(alone) if alone or not self._connection.up else []
        for opened in self._open:
            ended += opened.progress.ended
            opened.progress.ended.clear()
        self._open = []
        with self._counted:
            ended, self._ended = [*ended, *self._ended], []
        return ended

    def look(self) -> None:
        """Send what waits, and count the sessions that have ended. Called by the connection's own thread."""
        try:
            self._bring()
            self._reap()
        except RedisUnavailable:
            return

    def _bring(self) -> None:
        """Send what waits, while batches are still judged and add to it."""
        while chunks := self._unsent[:COMMANDS_PER_ROUND_TRIP]:
            sessions = dict.fromkeys(chunk.session for chunk in chunks)
            replies = self._connection.run_and_read(
                [*(self._push(chunk) for chunk in chunks), self._heard(sessions)], self._read_pushed
            )
            for had in replies:
                self._count(had.ended)
            with self.lock:
                del self._unsent[: len(chunks)]
                self._waiting -= sum(len(chunk.scores) for chunk in chunks)
                if not self._unsent:
                    self._tell_grades()

    def _tell_grades(self) -> None:
        """Send the alarms of the time when Redis was unavailable. From here on Redis keeps them."""
        raised = [
            ScriptCall(GRADE, self._key(session), [self._severities.index(entry.severity), "*"])
            for session, entry in self._alone.under_way()
            if entry.severity is not None
        ]
        for start in range(0, len(raised), COMMANDS_PER_ROUND_TRIP):
            self._connection.run(raised[start : start + COMMANDS_PER_ROUND_TRIP])
        self._alone = MemorySessions(self._rule, self._idle / 1e3, self._most)

    def _reap(self) -> None:
        silent, ended = self._connection.run_and_read(
            [ScriptCall(ENDED, self._names, [self._idle, self._most, COMMANDS_PER_ROUND_TRIP])], _ended
        )
        calls = [
            ScriptCall(FORGET, self._key(session), [self._idle if at < silent else -1])
            for at, session in enumerate(ended)
        ]
        for grade in self._connection.run_and_read(calls, self._read_grades) if calls else []:
            self._count(grade)

    def _read_pushed(self, answers: list[Any]) -> list[_Had]:
        """What PUSH says of each session, the last answer, that of HEARD, aside. Raises ValueError or TypeError on what
        no such script says.
        """
        result = []
        for steps, scores, grade, stretch, ended in answers[:-1]:
            window = [float(score) for score in scores.split()]
            if len(window) > self._rule.window.width or any(isnan(score) for score in window) or int(steps) < 0:
                raise ValueError("what is kept of a session is something else")
            result.append(_Had(int(steps), window, self._grade(grade), int(stretch), self._ended_with(ended)))
        return result

    def _read_grades(self, answers: list[Any]) -> list[str | None]:
        return [self._ended_with(grade) for grade in answers]

    def _grade(self, text: Any) -> int | None:
        """A grade, None for none yet. Raises ValueError."""
        if text == "-":
            return None
        if not 0 <= int(text) < len(self._severities):
            raise ValueError(f"there is no grade {text!r}")
        return int(text)

    def _ended_with(self, text: Any) -> str | None:
        """The severity, or `none`, with which a session has ended; None where none has."""
        if text == "":
            return None
        grade = self._grade(text)
        return "none" if grade is None else self._severities[grade]

    def _count(self, ended: str | None) -> None:
        """Count a session that has ended with that severity or `none`; None means that no session has ended. A stretch
        that was not finished counts as none.
        """
        if ended is not None and self._rule.every is None:
            with self._counted:
                self._ended.append(None if ended == "none" else ended)

    def _keep(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            if self._waiting + len(chunk.scores) > MAX_UNSENT_SCORES:
                self.lost += len(chunk.scores)
            else:
                self._unsent.append(chunk)
                self._waiting += len(chunk.scores)

    def _push(self, chunk: Chunk) -> ScriptCall:
        how: list[str | int] = [chunk.batch, self._rule.window.width, self._rule.every or 0, self._idle]
        return ScriptCall(PUSH, self._key(chunk.session), how + [repr(score) for score in chunk.scores])

    def _heard(self, sessions: Iterable[str]) -> ScriptCall:
        arguments: list[str | int] = [self._idle]
        return ScriptCall(HEARD, self._names, arguments + list(sessions))

    @property
    def _names(self) -> str:
        return f"{self._name}:heard"

    def _key(self, session: str) -> str:
        return f"{self._name}:session:{session}"


def _redis_name(session: str) -> str:
    """The key of a session in Redis: of bounded length, without the caller's own text."""
    return hashlib.blake2b(session.encode(), digest_size=16).hexdigest()


def _ended(answers: list[Any]) -> tuple[int, list[str]]:
    """How many sessions were silent, and those that have ended. Raises ValueError or TypeError on anything else."""
    silent, *ended = answers[0]
    if not all(isinstance(name, str) for name in ended):
        raise TypeError("a session's name is a text")
    return int(silent), ended
