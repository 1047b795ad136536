"""Decodes ProcessingRequest of envoy.service.ext_proc.v3: what Envoy reports of one HTTP exchange.

Only the fields that the processor uses are decoded. Others are skipped by their wire type, as protobuf requires.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final

# What a message tells of: the numbers of ProcessingRequest's oneof.
NOTHING: Final = 0
REQUEST_HEADERS: Final = 2
RESPONSE_HEADERS: Final = 3
REQUEST_BODY: Final = 4
RESPONSE_BODY: Final = 5
REQUEST_TRAILERS: Final = 6
RESPONSE_TRAILERS: Final = 7
_ATTRIBUTES: Final = 9
_OBSERVABILITY: Final = 10
_PROTOCOL: Final = 11
_LAST_WITH_HEADERS: Final = 3
MOST_DEPTH: Final = 32  # groups within groups that are skipped

# ProcessingMode.BodySendMode
NONE: Final = 0
STREAMED: Final = 1
BUFFERED: Final = 2
BUFFERED_PARTIAL: Final = 3
FULL_DUPLEX_STREAMED: Final = 4
GRPC: Final = 5
MODE_UNKNOWN: Final = -1

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_GROUP: Final = 3
_END_GROUP: Final = 4
_FIXED32: Final = 5
_LARGEST_FIELD: Final = (1 << 29) - 1
_DOUBLE: Final = Struct("<d")

Fields = list[tuple[str, str]]


class MessageError(Exception):
    """Bytes that are not a ProcessingRequest."""


class ProcessingRequest:
    """One message from Envoy.

    `kind` says which part of the exchange it reports, NOTHING where that is unknown. `content` holds the encoded fields
    of headers and trailers (see `read_fields`), or the bytes of a body. `end`: nothing more follows in this direction.
    `attributes` are the strings and numbers of all namespaces, by name. The modes are MODE_UNKNOWN except in the first
    message of a stream.
    """

    __slots__ = ("attributes", "content", "end", "is_observing", "kind", "request_mode", "response_mode")

    def __init__(self) -> None:
        self.kind = NOTHING
        self.content = b""
        self.end = False
        self.is_observing = False
        self.request_mode = MODE_UNKNOWN
        self.response_mode = MODE_UNKNOWN
        self.attributes: Mapping[str, str] = {}


def read_request(data: bytes) -> ProcessingRequest:
    """Decode a message. Raises MessageError."""
    message = ProcessingRequest()
    attributes: dict[str, str] = {}
    at, end = 0, len(data)
    try:
        while at < end:
            key = data[at]
            at += 1
            if key >= 0x80:
                key, at = _varint(data, at - 1, end)
            field, wire = key >> 3, key & 7
            if not 0 < field <= _LARGEST_FIELD:
                raise MessageError(f"there is no field {field}")
            if wire == _BYTES:
                size = data[at]
                at += 1
                if size >= 0x80:
                    size, at = _varint(data, at - 1, end)
                stop = at + size
                if stop > end:
                    raise MessageError("a field ends beyond the message")
                if REQUEST_HEADERS <= field <= RESPONSE_TRAILERS:
                    _read_part(message, field, data, at, stop)
                elif field == _ATTRIBUTES:
                    _read_attributes(attributes, data, at, stop)
                elif field == _PROTOCOL:
                    _read_protocol(message, data, at, stop)
                at = stop
            elif field == _OBSERVABILITY and wire == _VARINT:
                value, at = _varint(data, at, end)
                message.is_observing = value != 0
            else:
                at = _skip(data, at, end, field, wire)
    except IndexError:
        raise MessageError("a field ends beyond the message") from None
    if attributes:
        message.attributes = attributes
    return message


def read_fields(content: bytes) -> Fields:
    """The header fields of `content`, in order, decoded as Latin-1. Raises MessageError."""
    fields: Fields = []
    at, end = 0, len(content)
    try:
        while at < end:
            field, wire, at = _key(content, at, end)
            if field != 1 or wire != _BYTES:
                at = _skip(content, at, end, field, wire)
                continue
            start, at = _range(content, at, end)
            fields.append(_header(content, start, at))
    except IndexError:
        raise MessageError("a field ends beyond the message") from None
    return fields


def _read_part(message: ProcessingRequest, kind: int, data: bytes, at: int, end: int) -> None:
    """Decode HttpHeaders, HttpBody or HttpTrailers. As protobuf requires, parts of one kind are merged, and of two
    kinds the last counts.
    """
    if message.kind != kind:
        message.kind, message.content, message.end = kind, b"", False
    is_body = kind in (REQUEST_BODY, RESPONSE_BODY)
    end_field = 2 if is_body else _LAST_WITH_HEADERS
    while at < end:
        field, wire, at = _key(data, at, end)
        if field == 1 and wire == _BYTES:
            start, at = _range(data, at, end)
            if is_body or not message.content:
                message.content = data[start:at]
            else:
                message.content += data[start:at]
        elif field == end_field and wire == _VARINT and kind < REQUEST_TRAILERS:
            value, at = _varint(data, at, end)
            message.end = value != 0
        else:
            at = _skip(data, at, end, field, wire)


def _header(data: bytes, at: int, end: int) -> tuple[str, str]:
    """Decode a HeaderValue. Envoy sends either `raw_value` or `value`; the other is empty."""
    name = value = raw = b""
    while at < end:
        field, wire, at = _key(data, at, end)
        if wire == _BYTES and 1 <= field <= 3:
            start, at = _range(data, at, end)
            part = data[start:at]
            if field == 1:
                name = part
            elif field == 2:
                value = part
            else:
                raw = part
        else:
            at = _skip(data, at, end, field, wire)
    return name.decode("latin-1"), (raw or value).decode("latin-1")


def _read_protocol(message: ProcessingRequest, data: bytes, at: int, end: int) -> None:
    if message.response_mode == MODE_UNKNOWN:  # told at all: what is left out is the default
        message.request_mode = message.response_mode = NONE
    while at < end:
        field, wire, at = _key(data, at, end)
        if wire == _VARINT and field in (1, 2):
            value, at = _varint(data, at, end)
            if field == 1:
                message.request_mode = value & 0x7FFFFFFF
            else:
                message.response_mode = value & 0x7FFFFFFF
        else:
            at = _skip(data, at, end, field, wire)


def _read_attributes(attributes: dict[str, str], data: bytes, at: int, end: int) -> None:
    """An entry of the map from a filter's name to a Struct."""
    while at < end:
        field, wire, at = _key(data, at, end)
        if field == 2 and wire == _BYTES:
            start, at = _range(data, at, end)
            _read_struct(attributes, data, start, at)
        else:
            at = _skip(data, at, end, field, wire)


def _read_struct(attributes: dict[str, str], data: bytes, at: int, end: int) -> None:
    """Add the strings and numbers of a google.protobuf.Struct to `attributes`, by their names. Raises MessageError."""
    while at < end:
        field, wire, at = _key(data, at, end)
        if field != 1 or wire != _BYTES:
            at = _skip(data, at, end, field, wire)
            continue
        entry, at = _range(data, at, end)
        name, text = b"", None
        while entry < at:
            field, wire, entry = _key(data, entry, at)
            if wire == _BYTES and field in (1, 2):
                start, entry = _range(data, entry, at)
                if field == 1:
                    name = data[start:entry]
                else:
                    text = _value(data, start, entry)
            else:
                entry = _skip(data, entry, at, field, wire)
        if text is not None:
            attributes[name.decode("utf-8", "replace")] = text


def _value(data: bytes, at: int, end: int) -> str | None:
    """A Value that is a string or a number, as text; None where it is something else."""
    text = None
    while at < end:
        field, wire, at = _key(data, at, end)
        if field == 3 and wire == _BYTES:
            start, at = _range(data, at, end)
            text = data[start:at].decode("utf-8", "replace")
        elif field == 2 and wire == _FIXED64:
            if at + 8 > end:
                raise MessageError("a field ends beyond the message")
            text = f"{_DOUBLE.unpack_from(data, at)[0]:.15g}"
            at += 8
        else:
            at = _skip(data, at, end, field, wire)
            text = None if field in (1, 4, 5, 6) else text
    return text


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of at most 64 bits, and the position after it."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value if shift < 63 else value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise MessageError("a number has more than 64 bits")
    raise MessageError("a field ends beyond the message")


def _key(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """A field's number and wire type, and the position after them."""
    key, at = _varint(data, at, end)
    field = key >> 3
    if not 0 < field <= _LARGEST_FIELD:
        raise MessageError(f"there is no field {field}")
    return field, key & 7, at


def _range(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Where the content of a field of bytes begins and ends."""
    size, at = _varint(data, at, end)
    if at + size > end:
        raise MessageError("a field ends beyond the message")
    return at, at + size


def _skip(data: bytes, at: int, end: int, field: int, wire: int, depth: int = 0) -> int:
    """The position after a field's value."""
    if wire == _VARINT:
        return _varint(data, at, end)[1]
    if wire == _BYTES:
        return _range(data, at, end)[1]
    if wire in (_FIXED64, _FIXED32):
        at += 8 if wire == _FIXED64 else 4
        if at > end:
            raise MessageError("a field ends beyond the message")
        return at
    if wire != _GROUP or depth > MOST_DEPTH:
        raise MessageError(f"field {field} has wire type {wire}")
    while True:
        inner, inner_wire, at = _key(data, at, end)
        if inner_wire == _END_GROUP:
            if inner != field:
                raise MessageError("a group ends with another's end")
            return at
        at = _skip(data, at, end, inner, inner_wire, depth + 1)
