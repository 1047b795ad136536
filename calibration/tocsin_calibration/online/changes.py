"""When a change began: counts as they were at times further and further back, in memory that grows with their log.

After every STEP responses the counts and the clock are noted (of the last RECENT responses, once they are asked for).
A note is forgotten as it ages, so that those that stay are at most an eighth of their age apart: 16 of each power of
two. For each note, the responses since are held against what came before (`UrnTest.log_evalue`, the null learnt from
calibration and from all before the note). These are the Bayes factors of a change at that note over none, and with
every response as likely to be the first that is different, their posterior. The estimate is its median. It is an
estimate: nothing is promised of it, benchmarks measure it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.online.urn import UrnTest

STEP = 16  # responses between two notes
PER_AGE = 16  # notes of each power of two of an age that stay
RECENT = 1_024  # responses whose cells are kept as they came: notes are made of them when they are older, or needed
COARSE = RECENT // PER_AGE  # responses between two notes that stay at that age
TIDIED = 64  # notes that come before old ones are looked through again
LOW, HIGH = 0.05, 0.95  # of the posterior


Note = tuple[int, float, bytes]  # responses, Unix time and counts (K,) int64 by then


class ChangeTime(NamedTuple):
    """Where a change probably began: after so many responses, so many ago, at Unix time `when`; nine times of ten
    between `earliest` and `latest` responses ago, as far as the alternatives tell. `direction` is how far the mean rank
    since then lies from that of calibration: 0 where it does not, 1 where all lie above every calibration score.
    """

    after: int
    ago: int
    when: float
    earliest: int
    latest: int
    direction: float


class _Stretch(NamedTuple):
    """Some responses in their order: how many came before and with which counts, their cells, and their times."""

    responses: int
    counts: NDArray[np.int64]
    cells: NDArray[np.intp]
    began: float
    ended: float

    def notes(self, step: int) -> list[Note]:
        """The counts after every response whose number is a multiple of `step`."""
        rows, cells = len(self.cells), len(self.counts)
        before = self.responses % step
        blocks = (before + rows - 1) // step + 1
        places = (np.arange(before, before + rows) // step) * cells + self.cells
        counted = np.bincount(places, minlength=blocks * cells).reshape(blocks, cells)
        cumulative = self.counts + np.cumsum(counted, axis=0)
        result = []
        for block in range((before + rows) // step):
            passed = (block + 1) * step - before
            when = self.began + passed / rows * (self.ended - self.began)
            result.append((self.responses + passed, when, cumulative[block].tobytes()))
        return result


class ChangePoints:
    """Notes of one stream's counts in `cells` cells. Not safe between threads."""

    def __init__(self, cells: int, when: float, step: int = STEP) -> None:
        self._step = step
        self._counts = np.zeros(cells, np.int64)
        self._responses, self._when = 0, when
        self._notes: list[Note] = [(0, when, self._counts.tobytes())]
        self._recent: deque[_Stretch] = deque()
        self._recent_rows = 0
        self._tidy_at = TIDIED

    def __len__(self) -> int:
        return len(self.notes())

    def add(self, cells: NDArray[np.intp], when: float) -> None:
        """Take in the cells (m,) of new responses in their order, the last of which came at Unix time `when`."""
        rows = len(cells)
        if not rows:
            return
        self._recent.append(_Stretch(self._responses, self._counts, cells, self._when, when))
        self._recent_rows += rows
        self._counts = self._counts + np.bincount(cells, minlength=len(self._counts))
        self._responses, self._when = self._responses + rows, when
        while self._recent_rows - len(self._recent[0].cells) >= RECENT:
            self._settle()

    def add_counts(self, counts: Sequence[int], when: float) -> None:
        """Take in responses whose order is not known, as counts (K,)."""
        if not any(counts):
            return
        while self._recent:
            self._settle()
        self._counts = self._counts + np.asarray(counts, np.int64)
        self._responses, self._when = self._responses + sum(counts), when
        if self._responses // self._step > self._notes[-1][0] // self._step:
            self._notes.append((self._responses, when, self._counts.tobytes()))
            self._tidy()

    def notes(self) -> list[Note]:
        """Responses so far, Unix time and counts of each note that stays, the oldest first."""
        newest = self._responses // self._step
        recent = [note for stretch in self._recent for note in stretch.notes(self._step)]
        return [note for note in [*self._notes, *recent] if self._stays(note[0] // self._step, newest)]

    def estimate(self, test: UrnTest) -> ChangeTime | None:
        """Where a change probably began; None before anything has come."""
        if not self._responses:
            return None
        notes = [note for note in self.notes() if note[0] < self._responses]
        places = [responses for responses, _, _ in notes]
        before = np.array([np.frombuffer(content, np.int64) for _, _, content in notes])
        logs = test.log_evalues(self._counts - before, before)
        bayes_factors = np.exp(logs - logs.max()).tolist()
        # Each note stands for the responses around it, up to half way to the next ones.
        borders = [0.0, *((a + b) / 2 for a, b in pairwise(places)), float(self._responses)]
        shares = [factor * (end - start) for factor, (start, end) in zip(bayes_factors, pairwise(borders), strict=True)]
        cumulative = list(accumulate(shares))
        low, middle, high = (bisect_left(cumulative, quantile * cumulative[-1]) for quantile in (LOW, 0.5, HIGH))
        place, count = places[middle], self._responses
        earliest, latest = count - int(borders[low]), count - round(borders[high + 1])
        since = self._counts - before[middle]
        sizes = np.asarray(test.cells)
        middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
        direction = 2 * float(since @ middles) / (count - place) - 1
        return ChangeTime(place, count - place, notes[middle][1], earliest, latest, direction)

    def _settle(self) -> None:
        """Make notes of the oldest stretch: those of its multiples of COARSE, as no others stay at its age."""
        stretch = self._recent.popleft()
        self._recent_rows -= len(stretch.cells)
        fine = self._responses - stretch.responses - len(stretch.cells) < RECENT
        self._notes += stretch.notes(self._step if fine else max(self._step, COARSE))
        self._tidy()

    def _tidy(self) -> None:
        if len(self._notes) < self._tidy_at:
            return
        newest = self._responses // self._step
        self._notes = [note for note in self._notes if self._stays(note[0] // self._step, newest)]
        self._tidy_at = len(self._notes) + TIDIED

    def _stays(self, number: int, newest: int) -> bool:
        return number == 0 or newest - number < PER_AGE * (number & -number)
