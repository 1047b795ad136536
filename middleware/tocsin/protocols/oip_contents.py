"""Where the raw contents of tensors are in a message of the Open Inference Protocol v2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tocsin.protocols.descriptors import message_class
from tocsin.protocols.layouts import fields_with_length

_Response = message_class("open_inference", "inference.ModelInferResponse")
_StreamResponse = message_class("open_inference", "inference.ModelStreamInferResponse")
_INFER_RESPONSE: Final = _StreamResponse.DESCRIPTOR.fields_by_name["infer_response"].number
_RAW_OUTPUT_CONTENTS: Final = _Response.DESCRIPTOR.fields_by_name["raw_output_contents"].number

MOST_FIELDS: Final = 256  # of a large message whose contents are left where they are
RAW_FOR_DECODED: Final = 16  # bytes of raw contents that take as long as one that is decoded


def raw_contents(content: bytes, *, streamed: bool) -> list[tuple[int, int]]:
    """Where the raw contents are in a response that was read, in a stream's message where it is `streamed`."""
    start, stop = 0, len(content)
    if streamed:
        ((start, stop),) = fields_with_length(content, 0, stop, _INFER_RESPONSE)
    return fields_with_length(content, start, stop, _RAW_OUTPUT_CONTENTS)


def decoded_size(content: bytes) -> int:
    """How many bytes of a ModelInferResponse take time when it is read: all of them, where it has no raw contents."""
    size = len(content)
    try:
        places = fields_with_length(content, 0, size, _RAW_OUTPUT_CONTENTS, most=MOST_FIELDS)
    except IndexError:  # it ends within a field
        return size
    raw = sum([stop - start for start, stop in places])
    return size - raw + raw // RAW_FOR_DECODED


class RawContents(Sequence[bytes]):
    """The raw contents of a message, of which only those are copied that are read."""

    def __init__(self, message: bytes, places: list[tuple[int, int]]) -> None:
        self._message, self._places = message, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        places = self._places[at]
        if isinstance(places, tuple):
            return self._message[places[0] : places[1]]
        return [self._message[start:stop] for start, stop in places]


def contents_apart(content: bytes, number: int) -> tuple[bytes, Sequence[bytes]]:
    """A large message without its raw contents, which are the fields of that number (below 16), and those; where it has
    an unusual form, all of it and none of them.
    """
    try:
        places = fields_with_length(content, 0, len(content), number, most=MOST_FIELDS)
    except IndexError:  # it ends within a field
        return content, ()
    if not places or places[-1][1] > len(content):
        return content, ()
    rest, end, tag = [], 0, number << 3 | 2
    for start, stop in places:
        head = start - _lead_size(stop - start)
        if content[head] != tag:  # a longer form of the same numbers, or none that is valid
            return content, ()
        rest.append(content[end:head])
        end = stop
    return b"".join((*rest, content[end:])), RawContents(content, places)


def _lead_size(length: int) -> int:
    """Bytes before the contents of a field of that length: a tag of one byte, and the length in as few as it takes."""
    if length < 1 << 14:
        return 2 if length < 1 << 7 else 3
    return 4 if length < 1 << 21 else 5 if length < 1 << 28 else 6
