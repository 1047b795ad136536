"""Sessions under way in this process: bounded, forgotten when silent, and told when they have ended."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

from tocsin_calibration import SessionRule
from tocsin_calibration.sessions.rule import Progress


class MemorySessions:
    """The progress of every session that has been heard of lately.

    `idle`: seconds of silence after which a session has ended; `most` of them are remembered, the longest silent one
    ends when there are more. Safe between threads under `lock`.
    """

    shared = False

    def __init__(self, rule: SessionRule, idle: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rule, self._idle, self._most, self._clock = rule, idle, most, clock
        self._under_way: OrderedDict[str, tuple[float, Progress]] = OrderedDict()  # longest silent first
        self._ended: list[str | None] = []
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, keys: Sequence[str], joint: Sequence[float]) -> list[Progress]:
        """See SessionStore."""
        del joint
        return [self.of(key) for key in keys]

    def end(self, keys: Sequence[str], progress: Sequence[Progress]) -> list[str | None]:
        """See SessionStore."""
        return self.ended(zip(keys, progress, strict=True))

    def finish(self, keys: Sequence[str]) -> list[str | None]:
        """End the sessions with these keys; the same as `end` tells."""
        for key in keys:
            found = self._under_way.pop(key, None)
            if found is not None:
                self._end(found[1])
        told, self._ended = self._ended, []
        return told

    def under_way(self) -> Iterator[tuple[str, Progress]]:
        """Every session that goes on, by key."""
        for key, (_, progress) in self._under_way.items():
            yield key, progress

    def of(self, key: str) -> Progress:
        """The progress of the session with that key, new if it is not known; without a key it is a session of its
        own.
        """
        if not key:
            return self._rule.start()
        now = self._clock()
        found = self._under_way.pop(key, None)
        if found is not None and now - found[0] > self._idle:
            self._end(found[1])
            found = None
        progress = self._rule.start() if found is None else found[1]
        self._under_way[key] = now, progress
        self._forget(now)
        return progress

    def ended(self, touched: Iterable[tuple[str, Progress]]) -> list[str | None]:
        """The worst severity of each session, or stretch of one, that has ended since this was last asked.

        `touched`: the sessions that went on since then, by key.
        """
        for key, progress in touched:
            if key:
                self._ended += progress.ended
                progress.ended.clear()
            else:
                self._end(progress)
        self._forget(self._clock())
        told, self._ended = self._ended, []
        return told

    def _forget(self, now: float) -> None:
        while self._under_way:
            key, (heard, progress) = next(iter(self._under_way.items()))
            if len(self._under_way) <= self._most and now - heard <= self._idle:
                return
            del self._under_way[key]
            self._end(progress)

    def _end(self, progress: Progress) -> None:
        self._ended += progress.ended
        progress.ended.clear()
        if self._rule.every is None:  # a stretch that was not finished is none
            self._ended.append(progress.severity)
