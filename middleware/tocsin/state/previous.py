"""The last signals of each session, for detectors that compare a response with the one before it: bounded, and
forgotten when a session is silent.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Protocol

from tocsin.names import bounded
from tocsin.state.redis_connection import RedisConnection, RedisUnavailable, ScriptCall
from tocsin.state.scripts import EXCHANGE

MAX_BYTES = 64 << 20  # of the signals that one process keeps for one model

Update = tuple[str, bytes]  # a session's key, and its signals now


class PreviousStore(Protocol):
    """Remembers the last signals of each session of one model. `shared`: each access takes a round trip. Safe between
    threads.
    """

    shared: bool

    def exchange(self, updates: Sequence[Update]) -> list[bytes | None]:
        """Remember signals, in their order; what was remembered of each one's session before, None for nothing."""
        ...

    def drop(self, key: str) -> None:
        """Forget a session's signals: a response has come whose signals are not known. Never waits."""
        ...


class MemoryPrevious:
    """Signals in this process, of sessions that were heard of within `idle` seconds: of at most `most` sessions, and of
    MAX_BYTES together. Those of the longest silent session are forgotten when there are more.
    """

    shared = False

    def __init__(
        self, idle: float, most: int, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle, self._most, self._max_bytes, self._clock = idle, most, max_bytes, clock
        self._by_session: OrderedDict[str, tuple[float, bytes]] = OrderedDict()  # longest silent first
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._by_session)

    def exchange(self, updates: Sequence[Update]) -> list[bytes | None]:
        """See PreviousStore."""
        now, result = self._clock(), []
        with self._lock:
            for key, signals in updates:
                heard, before = self._pop(bounded(key))
                result.append(before if now - heard <= self._idle else None)
                self._by_session[bounded(key)] = now, signals
                self._bytes += len(signals)
            self._forget(now)
        return result

    def drop(self, key: str) -> None:
        """See PreviousStore."""
        with self._lock:
            self._pop(bounded(key))

    def _pop(self, key: str) -> tuple[float, bytes | None]:
        entry = self._by_session.pop(key, None)
        if entry is None:
            return 0.0, None
        self._bytes -= len(entry[1])
        return entry

    def _forget(self, now: float) -> None:
        while self._by_session:
            key, (heard, _) = next(iter(self._by_session.items()))
            has_room = len(self._by_session) <= self._most and self._bytes <= self._max_bytes
            if has_room and now - heard <= self._idle:
                return
            self._pop(key)


class RedisPrevious:
    """Signals in a Redis that replicas share, under `name`, for `idle` seconds: one round trip a batch. While Redis is
    away, sessions have the signals that this process has seen since.
    """

    shared = True

    def __init__(self, connection: RedisConnection, name: str, idle: float, most: int) -> None:
        self._connection, self._name, self._most = connection, name, most
        self._idle = max(1, round(1e3 * idle))
        self._alone = MemoryPrevious(idle, most)  # while Redis is away
        self._stale: OrderedDict[str, None] = OrderedDict()  # sessions whose signals in Redis are not the last
        self._lock = threading.Lock()

    def exchange(self, updates: Sequence[Update]) -> list[bytes | None]:
        """See PreviousStore."""
        calls = [
            ScriptCall(EXCHANGE, self._key(key), [base64.b64encode(signals).decode(), self._idle])
            for key, signals in updates
        ]
        try:
            before = self._connection.run_and_read(calls, _read)
        except RedisUnavailable:
            for key, _ in updates:
                self._mark_stale(key)
            return self._alone.exchange(updates)
        for at, (key, _) in enumerate(updates):
            with self._lock:
                is_stale = bounded(key) in self._stale
                self._stale.pop(bounded(key), None)
            if is_stale:
                (before[at],) = self._alone.exchange([(key, b"")])
                self._alone.drop(key)
        return before

    def drop(self, key: str) -> None:
        """See PreviousStore."""
        self._alone.drop(key)
        self._mark_stale(key)

    def _mark_stale(self, key: str) -> None:
        with self._lock:
            self._stale[bounded(key)] = None
            if len(self._stale) > self._most:
                self._stale.popitem(last=False)

    def _key(self, key: str) -> str:
        return f"{self._name}:{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def _read(answers: list[str]) -> list[bytes | None]:
    """The signals that were there before, None for none. Raises ValueError or TypeError on what no such script says."""
    return [base64.b64decode(answer, validate=True) if answer else None for answer in answers]
