"""Stretches of sessions: scores that come in clusters, of which only the clusters are exchangeable.

Stretches of one session are alike, so that two hundred from five sessions are no two hundred. The threshold is the
smallest score s with sum_j (share of session j's stretches at or below s) >= (1 - alpha)(J + 1), each of J sessions
weighing 1 and a new one lying at infinity (hierarchical conformal prediction; Lee, Barber and Willett 2023,
arXiv:2306.06342).

Guarantee: a stretch of a session exchangeable with the J alarms with probability at most alpha, however alike the
stretches of one session are. It needs J >= 1/alpha - 1 sessions. Of fewer the usual order statistic is left, whose
promise is for stretches that are exchangeable one by one: further ones of the same sessions.

What one calibration lets a user see is stated as if there were n / (1 + (c - 1) rho) independent stretches (Kish's
design effect), c being a session's mean number and rho the intraclass correlation of scores' ranks, estimated by
analysis of variance. That is an approximation, and says nothing where only one session was recorded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.split import exact

Float64 = NDArray[np.float64]


class Clustered(NamedTuple):
    """Of sorted scores (n,): the session of each, as a number (n,); how many sessions there are; the correlation within
    one, None where it cannot be told; and how many independent scores these are worth.
    """

    members: Float64
    sessions: int
    correlation: float | None
    effective: int

    @classmethod
    def of(cls, scores: ArrayLike, members: ArrayLike) -> Clustered:
        """Of scores (n,), sorted, and the sessions (n,) they come from. Raises CalibrationError when these differ in
        number.
        """
        values, sessions = np.asarray(scores, np.float64), np.asarray(members, np.float64)
        if values.shape != sessions.shape:
            raise CalibrationError(f"there are {len(values)} calibration scores, but sessions for {len(sessions)}")
        _, place, sizes = np.unique(sessions, return_inverse=True, return_counts=True)
        n, j = len(sessions), len(sizes)
        if not 1 < j < n:
            return cls(sessions, j, None if j < 2 else 0.0, n)
        ranks = np.searchsorted(values, values, side="left") + np.searchsorted(values, values, side="right")
        mean = np.bincount(place, weights=ranks) / sizes
        between = float((sizes * (mean - ranks.mean()) ** 2).sum()) / (j - 1)
        within = float(((ranks - mean[place]) ** 2).sum()) / (n - j)
        usual = (n - float((sizes**2).sum()) / n) / (j - 1)  # stretches a session, as unequal numbers count
        total = between + (usual - 1) * within
        rho = min(1.0, max(0.0, (between - within) / total)) if total > 0 else 0.0
        return cls(sessions, j, rho, max(1, round(n / (1 + (n / j - 1) * rho))))

    @property
    def weights(self) -> Float64:
        """Each score's share of its session (n,), of sum `sessions`."""
        _, place, sizes = np.unique(self.members, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / sizes[place], np.float64)

    def carries(self, alpha: float) -> bool:
        """Whether there are sessions enough to promise alpha for new ones."""
        return self.sessions >= (1 - exact(alpha)) * (self.sessions + 1)
