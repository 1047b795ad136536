"""Which cell of the drift test a score falls in, ties and all."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.online.changes import ChangePoints, ChangeTime
from tocsin_calibration.online.shift import shift_edges, shift_test
from tocsin_calibration.online.urn import CELLS, cell_edges, drift_test
from tocsin_calibration.online.watch import EVERY, Watch
from tocsin_calibration.thresholds.ordered import Ordered


class DriftWatch:
    """Watches whether nonconformity scores still rank among the calibration scores (n,) as exchangeable ones do.

    Ties are broken by an auxiliary uniform number that each calibration score has for ever and each new score draws: of
    tied scores the one with the larger number counts as higher. Such pairs are exchangeable when the scores are, and
    never tie, so that their ranks are an urn whatever the scores' law. (A gap among tied scores drawn anew for each new
    score is uniform as well, but no urn: it never settles on this calibration set's luck, and looks like drift.)

    `auxiliary`: the seed of the calibration scores' numbers, the same wherever this calibration is watched. `seed`:
    that of the new scores' numbers, None for one from the operating system, as two processes must not share theirs.
    `directed`: cells and alternatives of `shift`, which find scores that have moved sooner, and other changes later.
    `began` is the Unix time from which scores come, by default now. Memory grows with the log of the responses, beside
    the calibration scores: only the numbers at the cells' edges matter.
    """

    def __init__(
        self,
        calibration: NDArray[np.float64] | Ordered,
        *,
        cells: int = CELLS,
        every: int = EVERY,
        auxiliary: int | Sequence[int] = 0,
        seed: int | Sequence[int] | None = None,
        directed: bool = False,
        began: float | None = None,
    ) -> None:
        self._calibration = calibration if isinstance(calibration, Ordered) else Ordered.of(calibration)
        n = self._calibration.n
        edges = shift_edges(n) if directed else cell_edges(n, cells)
        self._scores, self._uniforms = _edges(self._calibration, edges[1:-1], auxiliary)
        blocks, first, size = np.unique(self._scores, return_index=True, return_counts=True)
        self._blocks = list(zip(blocks.tolist(), first.tolist(), size.tolist(), strict=True))
        self._rng = np.random.default_rng(seed)
        self._test = shift_test(n) if directed else drift_test(n, cells)
        self.watch = Watch(self._test, every)
        self._changes = ChangePoints(len(edges) - 1, time.time() if began is None else began)

    def cells(self, scores: ArrayLike) -> NDArray[np.intp]:
        """The cell (m,) of each new score (m,), ties broken by a number that is drawn here."""
        values = self._calibration.as_kept(scores)
        cells = self._scores.searchsorted(values)
        if (self._scores.take(cells, mode="clip") == values).any():  # some tie with a cell's edge
            drawn = self._rng.random(len(values))
            for score, first, size in self._blocks:
                if (tied := values == score).any():
                    cells[tied] += np.searchsorted(self._uniforms[first : first + size], drawn[tied], side="left")
        return cells

    def add(self, scores: ArrayLike, when: float | None = None) -> None:
        """Take in new scores (m,) in their order, the last of which came at Unix time `when`, by default now."""
        self.add_cells(self.cells(scores), when)

    def add_cells(self, cells: NDArray[np.intp], when: float | None = None) -> None:
        """The same of scores whose cells (m,) are known."""
        counts = np.bincount(cells, minlength=len(self._scores) + 1)
        self.watch.add(counts.tolist())
        self._changes.add(cells, time.time() if when is None else when, counts)

    def add_counts(self, counts: Sequence[int], when: float | None = None) -> None:
        """Take in how many of others' scores fell in each cell."""
        self.watch.add(counts)
        self._changes.add_counts(counts, time.time() if when is None else when)

    def log_evidence(self) -> float:
        """log of the evidence that scores have drifted, log(1/delta) to act on."""
        return self.watch.log_evidence()

    def change(self) -> ChangeTime | None:
        """Where the change probably began, if there is one; None before any score has come."""
        return self._changes.estimate(self._test)


def _edges(
    calibration: Ordered, ranks: list[int], auxiliary: int | Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The score at each rank (from 1) and its auxiliary number, in ascending order of both.

    Among m scores that tie, the number at the r-th place is the r-th smallest of m uniforms; given another one below
    it, at place q, it lies in the rest as the (r-q)-th of m-q does.
    """
    rng = np.random.default_rng(auxiliary)
    scores = np.array([calibration.at_rank(rank) for rank in ranks], np.float64)
    below, at_most = calibration.below(scores), calibration.at_most(scores)
    uniforms, place, number = np.zeros(len(ranks)), 0, 0.0
    for at, rank in enumerate(ranks):
        if at == 0 or scores[at] != scores[at - 1]:
            place, number = 0, 0.0
        next_place = rank - int(below[at])
        rest = int(at_most[at]) - int(below[at]) - place
        number += (1 - number) * rng.beta(next_place - place, rest + 1 - (next_place - place))
        uniforms[at], place = number, next_place
    return scores, uniforms
