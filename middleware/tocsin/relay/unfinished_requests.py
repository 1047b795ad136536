"""Requests that were answered before all of them had come (RFC 9113, section 8.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LINGER = 1.0  # seconds in which a client may finish what it has begun to send
MOST = 128  # streams of a connection that do


class UnfinishedRequests:
    """The streams whose answer is complete and whose request is not. What still comes of a request is dropped; a client
    that goes on is told to stop, by RST_STREAM.

    Not at once: clients that are just sending their request take the reset for a failure, and lose the answer that came
    before it, as curl did up to 8.1.
    """

    def __init__(self) -> None:
        self._stop: Callable[[int], None] | None = None  # while there are any
        self._deadlines: dict[int, float] = {}  # in their order
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream_id: int, stop: Callable[[int], None]) -> None:
        """A stream was answered; `stop` resets one. Where too many are unfinished, the first of them is reset now."""
        loop = asyncio.get_running_loop()
        self._stop = stop
        self._deadlines[stream_id] = loop.time() + LINGER
        if len(self._deadlines) > MOST:
            self._stop_first()
        if self._timer is None:
            self._timer = loop.call_later(LINGER, self._on_deadline)

    def discard(self, stream_id: int) -> None:
        """A request has ended, or was reset."""
        self._deadlines.pop(stream_id, None)

    def close(self) -> None:
        """The connection is gone."""
        self._deadlines.clear()
        self._stop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_first(self) -> None:
        stream_id = next(iter(self._deadlines))
        del self._deadlines[stream_id]
        if self._stop is not None:
            self._stop(stream_id)

    def _on_deadline(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._deadlines:
            deadline = next(iter(self._deadlines.values()))
            if deadline > now:
                self._timer = loop.call_at(deadline, self._on_deadline)
                return
            self._stop_first()
        self._stop = None
