"""How far several judges agree about the latest calls, opinion by opinion, and whether that is enough."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

from tocsin.configuration.second_opinion import AgreementConfig
from tocsin_calibration.evaluation.agreement import RatingSums, added, rating_sums

LEAST_CALLS = 20  # calls in the window below which agreement is not held against an opinion


class AgreementWindows:
    """For each opinion the latest calls that several judges have scored. Safe between threads."""

    def __init__(self, config: AgreementConfig) -> None:
        self._at_least, self._size = config.at_least, config.window
        self._windows: dict[str, deque[RatingSums]] = {}
        self._lock = threading.Lock()

    def add(self, scores_by_judge: Sequence[Mapping[str, float]]) -> None:
        """Take note of the scores of one call by opinion, as each judge gave them; opinions that only one gave say
        nothing about agreement.
        """
        for opinion in {name for scores in scores_by_judge for name in scores}:
            sums = rating_sums([scores[opinion] for scores in scores_by_judge if opinion in scores])
            if sums.items:
                with self._lock:
                    self._windows.setdefault(opinion, deque(maxlen=self._size)).append(sums)

    def sums(self) -> dict[str, RatingSums]:
        """The sums of each opinion's window."""
        with self._lock:
            windows = {opinion: list(window) for opinion, window in self._windows.items()}
        return {opinion: added(window) for opinion, window in windows.items()}

    def believes(self, opinion: str) -> bool:
        """Whether judges agree enough about the latest calls: not where the window holds LEAST_CALLS and their alpha is
        below `at_least`.
        """
        if self._at_least is None:
            return True
        with self._lock:
            window = list(self._windows.get(opinion, ()))
        if len(window) < LEAST_CALLS:
            return True
        return not added(window).alpha < self._at_least  # NaN, where all scores are the same, is agreement
