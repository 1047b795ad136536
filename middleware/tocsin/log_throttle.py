"""Decides which events get a line in the log: the first of a kind within a minute, with the number suppressed before
it.
"""

from __future__ import annotations

import threading
import time

INTERVAL = 60.0  # seconds between two lines about the same


class LogThrottle:
    """Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, ...], tuple[float, int]] = {}

    def admit(self, *what: str) -> int | None:
        """How many events of this kind were suppressed since the last that was logged; None to suppress this one."""
        with self._lock:
            now = time.monotonic()
            when, suppressed = self._entries.get(what, (now - INTERVAL, 0))
            if now - when < INTERVAL:
                self._entries[what] = when, suppressed + 1
                return None
            self._entries[what] = now, 0
            return suppressed


def and_more(suppressed: int) -> str:
    """The end of a log line that says how many were suppressed."""
    return f" (and {suppressed:,} more since it was last logged)" if suppressed else ""
