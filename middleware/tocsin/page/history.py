"""What was counted over the last hour, for charts."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

POINT_INTERVAL = 20.0  # seconds between points
MAX_POINTS = 180  # an hour

Counts = dict[str, tuple[int, dict[str, int]]]  # model -> rows judged, alarms by severity
Point = tuple[float, int, dict[str, int]]  # Unix time, rows judged and alarms by severity since the point before


class History:
    """Samples the counts at intervals, in its own thread."""

    def __init__(self, counts: Callable[[], Counts], every: float = POINT_INTERVAL) -> None:
        self._counts, self._every = counts, every
        self._points: dict[str, deque[Point]] = {}
        self._last = counts()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tocsin-history", daemon=True)
        self._thread.start()

    def points(self) -> dict[str, list[Point]]:
        """The points of every model, oldest first, and what was counted since the last of them."""
        now, counts = time.time(), self._counts()
        return {model: [*self._points.get(model, ()), self._since(model, counts, now)] for model in counts}

    def close(self) -> None:
        """Stop sampling."""
        self._ending.set()

    def _run(self) -> None:
        while not self._ending.wait(self._every):
            now, counts = time.time(), self._counts()
            for model in counts:
                self._points.setdefault(model, deque(maxlen=MAX_POINTS)).append(self._since(model, counts, now))
            self._last = counts

    def _since(self, model: str, counts: Counts, now: float) -> Point:
        rows, alarms = counts.get(model, (0, {}))
        rows_then, then = self._last.get(model, (0, {}))
        if rows < rows_then:  # counted anew
            rows_then, then = 0, {}
        return now, rows - rows_then, {name: count - then.get(name, 0) for name, count in alarms.items()}
