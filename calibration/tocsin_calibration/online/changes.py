"""When a change began: counts as they were at times further and further back, in memory that grows with their log.

After every STEP responses the counts and the clock are noted (of the last RECENT responses, once they are asked for).
A note is forgotten as it ages, while those that stay are at most a twelfth of their age apart. For each note, the
responses since are held against what came before (`UrnTest.log_evalue`, the null learnt from calibration and from all
before the note). These are the Bayes factors of a change at that note over none, and with every response as likely to
be the first that is different, their posterior. The estimate is its median. It is an estimate: nothing is promised of
it, benchmarks measure it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.online.urn import UrnTest

STEP = 16  # responses between two notes
PER_AGE = 12  # notes are forgotten while those that stay are no further apart than one in so many of their age
RECENT = 1_024  # responses whose cells are kept as they came: notes are made of them when they are older, or needed
COARSE = 64  # responses between two notes at that age; of fewer at once notes are made as they come
SETTLED = 8  # times as many are kept before notes are made of them, at once
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
    """Some responses in their order: their cells, below 256, and the Unix times of the one before and of the last."""

    cells: NDArray[np.uint8]
    began: float
    ended: float


class ChangePoints:
    """Notes of one stream's counts in `cells` cells. Not safe between threads."""

    def __init__(self, cells: int, when: float, step: int = STEP) -> None:
        self._step = step
        self._counts = np.zeros(cells, np.int64)
        self._responses, self._when = 0, when
        self._notes: list[Note] = [(0, when, self._counts.tobytes())]
        self._recent: list[_Stretch] = []
        self._recent_rows = 0
        self._before_recent = self._counts  # counts by the first of `_recent`
        self._tidy_at = TIDIED

    def __len__(self) -> int:
        return len(self.notes())

    def add(self, cells: NDArray[np.intp], when: float, counts: NDArray[np.intp] | None = None) -> None:
        """Take in the cells (m,) of new responses in their order, the last of which came at Unix time `when`. `counts`:
        how many fell in each cell (K,), where that is known.
        """
        rows = len(cells)
        if not rows:
            return
        self._recent.append(_Stretch(cells.astype(np.uint8), self._when, when))
        self._recent_rows += rows
        self._counts = self._counts + (np.bincount(cells, minlength=len(self._counts)) if counts is None else counts)
        self._responses, self._when = self._responses + rows, when
        if rows < COARSE:  # kept as they came, they would take more memory
            self._settle(self._step, 0)
        elif self._recent_rows >= SETTLED * RECENT:
            self._settle(max(self._step, COARSE), RECENT)

    def add_counts(self, counts: Sequence[int], when: float) -> None:
        """Take in responses whose order is not known, as counts (K,)."""
        if not any(counts):
            return
        self._settle(self._step, 0)
        self._counts = self._counts + np.asarray(counts, np.int64)
        self._responses, self._when = self._responses + sum(counts), when
        self._before_recent = self._counts
        self._notes.append((self._responses, when, self._counts.tobytes()))
        self._tidy()

    def notes(self) -> list[Note]:
        """Responses so far, Unix time and counts of each note that stays, the oldest first."""
        return self._thinned(self._notes + self._notes_of(self._recent, self._step)[0])

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

    def _settle(self, step: int, rest: int) -> None:
        """Make notes of all but at least `rest` of the recent responses, after every `step` of them."""
        if not self._recent:
            return
        number, rows = 0, self._recent_rows
        while number < len(self._recent) and rows - len(self._recent[number].cells) >= rest:
            rows -= len(self._recent[number].cells)
            number += 1
        notes, self._before_recent = self._notes_of(self._recent[:number], step)
        self._notes += notes
        self._recent, self._recent_rows = self._recent[number:], rows
        self._tidy()

    def _notes_of(self, stretches: Sequence[_Stretch], step: int) -> tuple[list[Note], NDArray[np.int64]]:
        """Notes of the oldest of the recent stretches, after every response whose number is a multiple of `step`, and
        the counts by the end of these stretches.
        """
        if not stretches:
            return [], self._before_recent
        first, ends = self._responses - self._recent_rows, [0, *accumulate(len(part.cells) for part in stretches)]
        before, rows, kinds = first % step, ends[-1], len(self._counts)
        blocks = (before + rows) // step
        cells = np.concatenate([stretch.cells for stretch in stretches])
        first_of_block = np.repeat(np.arange(0, (blocks + 1) * kinds, kinds), step)[before : before + rows]
        counted = np.bincount(first_of_block + cells, minlength=(blocks + 1) * kinds).reshape(-1, kinds)
        cumulative = counted.cumsum(axis=0)
        cumulative += self._before_recent
        passed = np.arange(step, (blocks + 1) * step, step) - before
        times = np.interp(passed, ends, [stretches[0].began, *(stretch.ended for stretch in stretches)])
        size, content = cumulative.itemsize * kinds, cumulative.tobytes()  # slices of which cost less than an array's
        notes = [
            (first + row, when, content[at * size : (at + 1) * size])
            for at, (row, when) in enumerate(zip(passed.tolist(), times.tolist(), strict=True))
        ]
        return notes, cumulative[-1].copy()

    def _tidy(self) -> None:
        if len(self._notes) >= self._tidy_at:
            self._notes = self._thinned(self._notes)
            self._tidy_at = len(self._notes) + TIDIED

    def _thinned(self, notes: list[Note]) -> list[Note]:
        """Without those whose neighbours are close enough for their age."""
        stay = notes[:1]
        for note, following in pairwise(notes[1:]):
            if (following[0] - stay[-1][0]) * PER_AGE > self._responses - following[0]:
                stay.append(note)
        return stay + notes[1:][-1:]
