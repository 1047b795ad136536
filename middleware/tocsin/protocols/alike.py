"""Messages that differ in nothing but the values of their signals: read many at a time, as rows of one array.

A stream's messages mostly have one structure. Of a message that was read in the usual way, a `Template` keeps which
bytes are structure and where each signal's values are. Other messages of the same size with the same structure are
compared and cut by numpy, whatever their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tocsin.protocols.layouts import Spans
from tocsin.protocols.rows import Family, Reading

Bytes = NDArray[np.uint8]

MOST_TEMPLATES, HITS_PER_TEMPLATE = 64, 256  # kept at first; then one more for so many messages that were alike
MOST_OF_A_SIZE = 4
MOST_KEPT = 4_194_304  # bytes of all templates


class Places(NamedTuple):
    """Where a message has its structure, and each signal's values: `mask` has 0xff where a byte is structure."""

    mask: bytes
    spans: Sequence[Spans]


@runtime_checkable
class PlaceReader(Protocol):
    """A reader that knows where in a message its signals are."""

    def read(self, opened: Sequence[Any], request: bytes | None) -> Reading:
        """See `protocols.method.Reader`."""
        ...

    def places(self, opened: Any, content: bytes) -> Places | None:
        """The places of an opened message, None where they depend on more than its structure."""
        ...


class Template(NamedTuple):
    """The structure of framed messages of one size: bytes under the `mask`, equal to `structure`.

    `family`: how rows of its signals are stacked; each such message is one row. `version` and `sequence` are what all
    of them say.
    """

    mask: Bytes
    structure: Bytes
    spans: Sequence[Spans]
    family: Family
    version: str
    sequence: int

    @property
    def says(self) -> tuple[Family, str, int]:
        """What must be equal of messages that are read together."""
        return self.family, self.version, self.sequence

    @property
    def widths(self) -> list[int]:
        """The bytes of each signal's values."""
        return [sum(stop - start for start, stop in spans) for spans in self.spans]

    def matches(self, rows: Bytes) -> NDArray[np.bool_] | None:
        """Which of these messages (n, size) have the structure; None for all of them."""
        differs = (rows & self.mask) != self.structure
        return ~differs.any(axis=1) if differs.any() else None

    def values(self, rows: Bytes) -> list[Bytes]:
        """Each signal's values (n, bytes) of these messages."""
        return [_columns(rows, spans) for spans in self.spans]


def template(message: bytes, places: Places, family: Family, version: str, sequence: int) -> Template:
    """The template of a framed message, whose content has these places."""
    prefix = len(message) - len(places.mask)
    mask = np.frombuffer(b"\xff" * prefix + places.mask, np.uint8)
    spans = [[(start + prefix, stop + prefix) for start, stop in of_signal] for of_signal in places.spans]
    return Template(mask, np.frombuffer(message, np.uint8) & mask, spans, family, version, sequence)


class AlikeRows(NamedTuple):
    """Rows read from messages: how they are stacked, each signal's raw contents, and what all of the messages say."""

    family: Family
    raws: list[bytes]
    version: str
    sequence: int


class Templates:
    """The templates of one method's messages."""

    def __init__(self) -> None:
        self._by_size: dict[int, list[Template]] = {}
        self._learnt = self._hits = self._bytes = 0

    def read(self, content: bytes, sizes: Sequence[int]) -> AlikeRows | int:
        """The rows of consecutive framed messages of these sizes, or the place of the first one that fits no template.
        Messages that fit different families, versions or sequences are not read together.
        """
        first = sizes[0]
        if sizes.count(first) == len(sizes):
            rows = np.frombuffer(content, np.uint8).reshape(-1, first)
            for candidate in self._by_size.get(first, ()):
                if candidate.matches(rows) is None:
                    self._hits += len(sizes)
                    return AlikeRows(
                        candidate.family,
                        [v.tobytes() for v in candidate.values(rows)],
                        candidate.version,
                        candidate.sequence,
                    )
        return self._read_by_size(content, sizes)

    def _read_by_size(self, content: bytes, sizes: Sequence[int]) -> AlikeRows | int:
        all_sizes = np.array(sizes)
        ends = all_sizes.cumsum()
        first = self.fitting(content[: sizes[0]])
        if first is None:
            return 0
        values = [np.empty((len(sizes), width), np.uint8) for width in first.widths]
        strange = len(sizes)
        for size in set(sizes):
            places = np.flatnonzero(all_sizes == size)
            messages = [content[end - size : end] for end in ends[places].tolist()]
            rows = np.frombuffer(b"".join(messages), np.uint8).reshape(-1, size)
            for candidate in self._by_size.get(size, ()):
                if candidate.says != first.says:
                    continue
                fits = candidate.matches(rows)
                chosen = slice(None) if fits is None else fits
                for of_signal, cut in zip(values, candidate.values(rows[chosen]), strict=True):
                    of_signal[places[chosen]] = cut
                rows, places = (rows[:0], places[:0]) if fits is None else (rows[~fits], places[~fits])
                if not len(rows):
                    break
            if len(places):
                strange = min(strange, int(places[0]))
        if strange < len(sizes):
            return strange
        self._hits += len(sizes)
        return AlikeRows(first.family, [v.tobytes() for v in values], first.version, first.sequence)

    def fitting(self, message: bytes) -> Template | None:
        """The template of a framed message."""
        rows = np.frombuffer(message, np.uint8).reshape(1, -1)
        return next((t for t in self._by_size.get(len(message), ()) if t.matches(rows) is None), None)

    @property
    def may_learn(self) -> bool:
        """Whether another template pays: not where hardly a message is like another."""
        return self._learnt <= MOST_TEMPLATES + self._hits // HITS_PER_TEMPLATE

    def learn(self, new: Template) -> None:
        """Keep a template."""
        size = len(new.mask)
        if self._bytes + 2 * size > MOST_KEPT:
            self._by_size, self._bytes = {}, 0
        of_size = self._by_size.get(size, [])
        self._by_size[size] = [new, *of_size[: MOST_OF_A_SIZE - 1]]
        self._learnt += 1
        self._bytes += 2 * size


def _columns(rows: Bytes, spans: Spans) -> Bytes:
    if len(spans) == 1:
        ((start, stop),) = spans
        return rows[:, start:stop]
    return np.hstack([rows[:, start:stop] for start, stop in spans])
