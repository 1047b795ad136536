"""Sessions under way in this process: bounded, forgotten when silent, and told when they have ended."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

from tocsin.names import bounded
from tocsin_calibration import SessionRule
from tocsin_calibration.sessions.rule import Progress


class _Entry:
    """A session under way, and when it was heard of."""

    __slots__ = ("heard", "progress")

    def __init__(self, heard: float, progress: Progress) -> None:
        self.heard, self.progress = heard, progress


class MemorySessions:
    """The progress of every session that has been heard of lately.

    Names of sessions that are long are kept as their digests, so that memory is bounded by the number of sessions.
    `idle`: seconds of silence after which a session has ended; `most` of them are remembered, the longest silent one
    ends when there are more. Safe between threads under `lock`.
    """

    shared = False

    def __init__(self, rule: SessionRule, idle: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rule, self._idle, self._most, self._clock = rule, idle, most, clock
        self._under_way: OrderedDict[str, _Entry] = OrderedDict()  # longest silent first
        self._ended: list[str | None] = []
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, keys: Sequence[str], joint: Sequence[float]) -> list[Progress]:
        """See SessionStore."""
        del joint
        now, under_way = self._clock(), self._under_way
        result = []
        for key in map(bounded, keys):
            entry = under_way.get(key)
            if entry is not None and now - entry.heard <= self._idle:
                entry.heard = now
                under_way.move_to_end(key)
                result.append(entry.progress)
            else:
                result.append(self.of(key))
        return result

    def end(self, keys: Sequence[str], progress: Sequence[Progress]) -> list[str | None]:
        """See SessionStore."""
        return self.ended(zip(keys, progress, strict=True))

    def finish(self, keys: Sequence[str]) -> list[str | None]:
        """End the sessions with these keys; the same as `end` tells."""
        for key in keys:
            entry = self._under_way.pop(bounded(key), None)
            if entry is not None:
                self._end(entry.progress)
        ended, self._ended = self._ended, []
        return ended

    def under_way(self) -> Iterator[tuple[str, Progress]]:
        """Every session that goes on, by key."""
        for key, entry in self._under_way.items():
            yield key, entry.progress

    def of(self, key: str) -> Progress:
        """The progress of the session with that key, new if it is not known; without a key it is a session of its
        own.
        """
        if not key:
            return self._rule.start()
        now, key = self._clock(), bounded(key)
        entry = self._under_way.pop(key, None)
        if entry is not None and now - entry.heard > self._idle:
            self._end(entry.progress)
            entry = None
        renewed = self._under_way[key] = _Entry(now, self._rule.start() if entry is None else entry.progress)
        self._forget(now)
        return renewed.progress

    def ended(self, touched: Iterable[tuple[str, Progress]]) -> list[str | None]:
        """The worst severity of each session, or stretch of one, that has ended since this was last asked.

        `touched`: the sessions that went on since then, by key.
        """
        for key, progress in touched:
            if not key:
                self._end(progress)
            elif progress.ended:
                self._ended += progress.ended
                progress.ended.clear()
        self._forget(self._clock())
        ended, self._ended = self._ended, []
        return ended

    def _forget(self, now: float) -> None:
        while self._under_way:
            key, entry = next(iter(self._under_way.items()))
            if len(self._under_way) <= self._most and now - entry.heard <= self._idle:
                return
            del self._under_way[key]
            self._end(entry.progress)

    def _end(self, progress: Progress) -> None:
        self._ended += progress.ended
        progress.ended.clear()
        if self._rule.every is None:  # a stretch that was not finished is none
            self._ended.append(progress.severity)
