"""How far several judges agree about the latest calls, opinion by opinion, and whether that is enough."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

from tocsin.configuration.second_opinion import AgreementConfig
from tocsin_calibration.evaluation.agreement import RatingSums, added, rating_sums
from tocsin_calibration.evaluation.intraclass import RaterSums, added_raters, rater_sums

LEAST_CALLS = 20  # calls in the window below which agreement is not held against an opinion


class AgreementWindows:
    """For each opinion the latest calls that several judges have scored. Safe between threads."""

    def __init__(self, config: AgreementConfig) -> None:
        self._at_least, self._size = config.at_least, config.window
        self._by_correlation = config.measure == "icc"
        self._windows: dict[str, deque[RatingSums]] = {}
        self._complete: dict[str, deque[RaterSums]] = {}  # of calls that every judge has scored
        self._lock = threading.Lock()

    def add(self, scores_by_judge: Sequence[Mapping[str, float]]) -> None:
        """Take note of the scores of one call by opinion, as each judge gave them; opinions that only one gave say
        nothing about agreement.
        """
        for opinion in {name for scores in scores_by_judge for name in scores}:
            ratings = [scores[opinion] for scores in scores_by_judge if opinion in scores]
            sums = rating_sums(ratings)
            with self._lock:
                if sums.items:
                    self._windows.setdefault(opinion, deque(maxlen=self._size)).append(sums)
                if sums.items and len(ratings) == len(scores_by_judge):
                    self._complete.setdefault(opinion, deque(maxlen=self._size)).append(rater_sums(ratings))

    def sums(self) -> dict[str, RatingSums]:
        """The sums of each opinion's window, for Krippendorff's alpha."""
        with self._lock:
            windows = {opinion: list(window) for opinion, window in self._windows.items()}
        return {opinion: added(window) for opinion, window in windows.items()}

    def by_judge(self) -> dict[str, RaterSums]:
        """The sums of each opinion's latest calls that every judge has scored, for the intraclass correlation."""
        with self._lock:
            windows = {opinion: list(window) for opinion, window in self._complete.items()}
        return {opinion: added_raters(window) for opinion, window in windows.items()}

    def believes(self, opinion: str) -> bool:
        """Whether judges agree enough about the latest calls: not where the window holds LEAST_CALLS and the measure of
        agreement is below `at_least`.
        """
        if self._at_least is None:
            return True
        with self._lock:
            window = list(self._windows.get(opinion, ()))
            complete = list(self._complete.get(opinion, ()))
        if len(complete if self._by_correlation else window) < LEAST_CALLS:
            return True
        agreement = added_raters(complete).agreement if self._by_correlation else added(window).alpha
        return not agreement < self._at_least  # NaN, where all scores are the same, is agreement
