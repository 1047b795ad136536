"""The budget of calls a minute: calls are spread evenly, so that no minute has more than it may have."""

from __future__ import annotations

import threading
import time


class Pace:
    """Grants turns at least `interval` seconds apart. Safe between threads."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._lock = threading.Lock()
        self._next_turn = 0.0  # time.monotonic

    def wait(self, until: float, ending: threading.Event) -> bool:
        """Wait for a turn. False, and no turn is used up, where it would come after `until` (time.monotonic), or
        `ending` is set before it comes.
        """
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            if turn > until or ending.is_set():
                return False
            self._next_turn = turn + self.interval
        return not ending.wait(turn - now)
