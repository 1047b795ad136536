"""A uniform sample of endless responses, or of their sessions, within a number of rows and of bytes."""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import count
from secrets import token_bytes
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LARGEST_SHARE = 1 / 64  # of the bytes there are: one row larger than that could drive too many others out
OVERHEAD = 1024  # bytes that a row takes besides its numbers and texts, about


class RecordedRow(NamedTuple):
    """One judged response: its keys, and each signal's numbers and shape."""

    time: float  # seconds since 1970
    version: str
    method: str
    session: str
    group: str
    signals: Mapping[str, NDArray[np.float32]]  # each (width,)
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """The bytes that it takes in memory, about."""
        texts = len(self.version) + len(self.session) + len(self.group)
        return OVERHEAD + 4 * texts + sum(values.nbytes for values in self.signals.values())


class RowReservoir:
    """Rows whose random number is among the smallest. Safe to use from several threads.

    Each response, or each session, draws a number from 0 to 1, and those with the smallest numbers stay within `rows`
    and `size` bytes: of responses of one size that is a uniform sample without replacement (bottom-k sampling; Cohen
    and Kaplan, 2007, doi:10.1145/1281100.1281133). A session's number is a keyed hash of its name, so that it stays or
    goes with all of its responses, and callers cannot choose names that stay. A row that takes more than a 64th of the
    bytes is left out.
    """

    def __init__(self, rows: int, size: int, *, seed: int | None = None) -> None:
        self._most_rows = rows
        self._most_bytes = size
        self._random = random.Random(seed)
        self._key = token_bytes(16) if seed is None else seed.to_bytes(16, "little")
        self._lock = threading.Lock()
        self._order = count()
        self._heap: list[tuple[float, int, RecordedRow]] = []  # by the number's negative: the largest first
        self.threshold = 1.0  # larger numbers are refused: below it, everything that came is here
        self.bytes = 0
        self.left_out = 0  # rows that were too large

    def __len__(self) -> int:
        return len(self._heap)

    def draw(self, session: str = "") -> float:
        """A number from 0 to 1: the same for all responses of a session, a new one for a response without a session."""
        if not session:
            return self._random.random()
        digest = blake2b(session.encode("utf-8", "surrogatepass"), key=self._key, digest_size=7).digest()
        return int.from_bytes(digest, "little") / (1 << 56)

    def draw_below(self, rows: int) -> Sequence[tuple[int, float]]:
        """The positions and numbers of those of some responses, each with a new number, that are to be added."""
        threshold, uniform = self.threshold, self._random.random
        return [(row, number) for row in range(rows) if (number := uniform()) < threshold]

    def add(self, number: float, row: RecordedRow) -> None:
        """Keep a row with its number, and drop those with the largest numbers where a bound is exceeded."""
        with self._lock:
            if number >= self.threshold:
                return
            if row.size > self._most_bytes * LARGEST_SHARE:
                self.left_out += 1
                return
            heapq.heappush(self._heap, (-number, next(self._order), row))
            self.bytes += row.size
            while self._heap and (
                len(self._heap) > self._most_rows
                or self.bytes > self._most_bytes
                or -self._heap[0][0] >= self.threshold  # the rest of a session that goes
            ):
                largest, _, removed = heapq.heappop(self._heap)
                self.threshold = -largest
                self.bytes -= removed.size

    def content(self) -> list[RecordedRow]:
        """The rows that are kept now, in the order in which they came."""
        with self._lock:
            entries = self._heap.copy()
        return [row for _, _, row in sorted(entries, key=lambda entry: entry[1])]
