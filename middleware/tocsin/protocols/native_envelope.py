"""What `_envelope.c` reads of a message: its fields, with what is nested in them left as bytes.

It is there where Tocsin was installed with its compiled parts. Where it is not, or a message has another form,
protobuf reads: the same values, in several times the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from importlib import import_module
from typing import Any, Final

Read = Callable[[bytes, bytes], "tuple[Any, ...] | None"]  # a message and `kinds`; its fields by their numbers

NUMBERS: Final = 16  # of fields: their tags are one byte


class FieldKind(IntEnum):
    """As `enum kind` in _envelope.c: a text comes as a str, many values as a list of bytes, and others not at all."""

    UNKNOWN = 0
    TEXT = 1
    TEXT_UNREAD = 2
    MANY = 3
    MANY_UNREAD = 4


def field_kinds(message: Any, read: Iterable[str]) -> bytes:
    """The kinds of all fields of a message with texts and repeated bytes, of which those called so are read."""
    kinds, names = bytearray(NUMBERS), frozenset(read)
    for field in message.DESCRIPTOR.fields:
        is_many = field.type == field.TYPE_BYTES
        if field.name in names:
            kinds[field.number] = FieldKind.MANY if is_many else FieldKind.TEXT
        else:
            kinds[field.number] = FieldKind.MANY_UNREAD if is_many else FieldKind.TEXT_UNREAD
    return bytes(kinds)


def load_envelope() -> Read | None:
    """Reads a message's fields; None where Tocsin was installed without it."""
    try:
        read: Read = import_module("tocsin.protocols._envelope").read
    except ImportError:
        return None
    return read
