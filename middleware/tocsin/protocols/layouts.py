"""Messages whose structure is known, read without parsing them.

The messages of a token stream differ in their numbers and seldom in their structure, which protobuf encodes in tags,
lengths and the lengths of varints. A structure that was parsed once is remembered as a mask over the bytes that encode
it. In another message with the same bytes under the mask, all floats are at the same positions. Which of them belong to
a signal is found by trial: messages of that structure with other floats are parsed and read in the usual way.

The mask leaves out: floats and other numbers of fixed size, the values of varints (not their lengths), bytes, and
packed varints except for their last byte.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Final

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor

Spans = list[tuple[int, int]]  # of bytes, each from and to

MAX_MESSAGE: Final = 65_536  # bytes of a message that is remembered,
MAX_MEMORY: Final = 4_194_304  # and of all of them
INITIAL_LAYOUTS: Final = 64  # structures to remember at once;
HITS_PER_LAYOUT: Final = 50  # then one for so many messages that were met again
MASKS_PER_LENGTH: Final = 8  # of one length
TRIALS: Final = 3

_VARINTS: Final = frozenset(
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64,
     FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM)
)  # fmt: skip
_FIXED: Final = {
    5: (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32),
    1: (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64),
}
_SIZES: Final = {5: 4, 1: 8}


class Layout:
    """One structure: its mask, the positions of its floats, and a sample message."""

    __slots__ = ("_floats", "empty", "is_summary", "like", "mask", "sequence")

    def __init__(self, like: bytes, mask: int, floats: list[int], is_summary: bool, sequence: int, empty: bool) -> None:
        self.like, self.mask, self._floats = like, mask, floats
        self.is_summary, self.sequence, self.empty = is_summary, sequence, empty

    def spans(self, read: Callable[[bytes], list[bytes]]) -> list[Spans] | None:
        """The positions of the values that `read` finds in messages of this structure, as float32, for each signal;
        None where the values are not floats of the message.
        """
        spans: list[list[int]] | None = None
        random = np.random.default_rng(0)
        for _ in range(TRIALS):
            marks = random.permutation(len(self._floats)).astype("<f4") + 1
            trial = bytearray(self.like)
            for at, mark in zip(self._floats, marks, strict=True):
                trial[at : at + 4] = mark.tobytes()
            where = dict(zip(marks.tolist(), self._floats, strict=True))
            trial_values = [np.frombuffer(raw, np.float32).tolist() for raw in read(bytes(trial))]
            if any(value not in where for values in trial_values for value in values):
                return None
            places = [[where[value] for value in values] for values in trial_values]
            if spans is not None and places != spans:
                return None
            spans = places
        return [_joined(places) for places in spans or []]


class Layouts:
    """The remembered structures of one message type. `exact`: full names of fields whose values are part of the
    structure.
    """

    def __init__(self, kind: Descriptor, exact: Set[str] = frozenset()) -> None:
        self._kind, self._exact = kind, exact
        self._by_length: dict[int, list[tuple[int, dict[int, Layout]]]] = {}  # by length: masks, and what they show
        self._held = self._learnt = self._met = 0

    def of(self, message: bytes) -> Layout | None:
        """The structure of a message, if it is remembered."""
        masks = self._by_length.get(len(message))
        if masks is None:
            return None
        number = int.from_bytes(message, "big")
        for mask, layouts in masks:
            layout = layouts.get(number & mask)
            if layout is not None:
                self._met += 1
                return layout
        return None

    def learn(self, message: bytes, is_summary: bool, sequence: int, empty: bool = False) -> Layout | None:
        """Remember the structure of a message that was parsed, unless there is no room or it does not pay."""
        length = len(message)
        if (
            not 0 < length <= MAX_MESSAGE
            or self._held + length > MAX_MEMORY
            or self._learnt > INITIAL_LAYOUTS + self._met // HITS_PER_LAYOUT
        ):
            return None
        self._learnt += 1
        bits, floats = bytearray(b"\xff" * length), list[int]()
        try:
            if not self._walk(message, 0, length, self._kind, bits, floats):
                return None
        except IndexError:  # a varint that does not end
            return None
        mask = int.from_bytes(bits, "big")
        masks = self._by_length.setdefault(length, [])
        mask, layouts = next((pair for pair in masks if pair[0] == mask), (mask, None))
        if layouts is None:
            if len(masks) == MASKS_PER_LENGTH:
                return None
            layouts = {}
            masks.append((mask, layouts))
        self._held += length
        layout = layouts[int.from_bytes(message, "big") & mask] = Layout(
            message, mask, floats, is_summary, sequence, empty
        )
        return layout

    def _walk(self, raw: bytes, at: int, end: int, kind: Descriptor, bits: bytearray, floats: list[int]) -> bool:
        """Unmask what is not structure, and note the positions of floats. False where something is unusual."""
        while at < end:
            tag, at = varint(raw, at)
            field, wire = kind.fields_by_number.get(tag >> 3), tag & 7
            if wire == 0:
                start, (_, at) = at, varint(raw, at)
                if field is not None and field.type not in _VARINTS:
                    return False
                if field is None or field.full_name not in self._exact:
                    bits[start:at] = b"\x80" * (at - start)
            elif wire in _SIZES:
                if field is not None and field.type not in _FIXED[wire]:
                    return False
                if field is not None and field.type == FieldDescriptor.TYPE_FLOAT:
                    floats.append(at)
                bits[at : at + _SIZES[wire]] = bytes(_SIZES[wire])
                at += _SIZES[wire]
            elif wire == 2:
                length, at = varint(raw, at)
                if at + length > end or not self._within(raw, at, at + length, field, bits, floats):
                    return False
                at += length
            else:
                return False
        return at == end

    def _within(
        self, raw: bytes, at: int, end: int, field: FieldDescriptor | None, bits: bytearray, floats: list[int]
    ) -> bool:
        """The same of a field with a length."""
        if field is not None and field.type == FieldDescriptor.TYPE_MESSAGE:
            entry = field.message_type.GetOptions().map_entry
            return not entry and self._walk(raw, at, end, field.message_type, bits, floats)
        if field is not None and field.type == FieldDescriptor.TYPE_STRING:
            return True
        if field is not None and field.type == FieldDescriptor.TYPE_GROUP:
            return False
        bits[at:end] = bytes(end - at)
        if field is None or field.type == FieldDescriptor.TYPE_BYTES:
            return True
        if field.full_name in self._exact:
            return False
        if field.type in _VARINTS:
            if end > at:
                bits[end - 1] = 0x80
        elif field.type in _FIXED[5]:
            if field.type == FieldDescriptor.TYPE_FLOAT:
                floats.extend(range(at, end, 4))
            return (end - at) % 4 == 0
        return field.type in _VARINTS or (end - at) % 8 == 0


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a position, and the position after it. Raises IndexError where it does not end within
    the ten bytes that a number of 64 bits takes: reading on would cost the square of what a peer sends.
    """
    value = shift = 0
    while shift <= 63:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError("a number of more than ten bytes")


def fields_with_length(raw: bytes, at: int, end: int, number: int, most: int = 0) -> list[tuple[int, int]]:
    """Where the contents of a message's fields of that number are, in its bytes from `at` to `end`. None where it has
    more than `most` fields, if that is not 0. Raises IndexError where a number does not end.
    """
    places = []
    fields = 0
    while at < end:
        fields += 1
        if fields > most > 0:
            return []
        tag = raw[at]
        at += 1
        if tag & 0x87 == 2:  # most are so
            length = raw[at]
            at += 1
            if length >= 0x80:
                more = raw[at]
                at += 1
                if more < 0x80:
                    length += (more - 1) << 7
                else:
                    length, at = varint(raw, at - 2)
            if tag >> 3 == number:
                places.append((at, at + length))
            at += length
            continue
        if tag >= 0x80:
            tag, at = varint(raw, at - 1)
        wire = tag & 7
        if wire == 2:
            length, at = varint(raw, at)
            if tag >> 3 == number:
                places.append((at, at + length))
            at += length
        elif wire == 0:
            _, at = varint(raw, at)
        elif wire in _SIZES:
            at += _SIZES[wire]
        else:
            return []  # a group, which no field of ours is
    return places


def encoded_varint(value: int) -> bytes:
    """A number from 0 in the bytes that `varint` reads."""
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return _FIRST_OF_TWO[value & 0x7F] + _ONE_BYTE[value >> 7]
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_ONE_BYTE: Final = [bytes([value]) for value in range(0x80)]
_FIRST_OF_TWO: Final = [bytes([value | 0x80]) for value in range(0x80)]


def _joined(places: list[int]) -> Spans:
    """Places of four bytes each as spans."""
    spans: Spans = []
    for at in places:
        if spans and spans[-1][1] == at:
            spans[-1] = (spans[-1][0], at + 4)
        else:
            spans.append((at, at + 4))
    return spans
