"""HTTP/2 frames and header blocks as bytes, also such as no peer should send (RFC 9113, RFC 7541)."""

from __future__ import annotations

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_WINDOW = (1 << 31) - 1
RESERVED_BIT = 1 << 31
GRPC = "application/grpc"

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20


class Kind(IntEnum):
    """Frame types (section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class ErrorCode(IntEnum):
    """Error codes (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """Settings (section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame; `stream` has 32 bits, with the reserved one."""
    return struct.pack(">L", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">L", stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HL", *pair) for pair in pairs))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; `increment` has 32 bits, with the reserved one."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack(">L", increment))


def reset(stream: int, code: int = ErrorCode.CANCEL) -> bytes:
    """A RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream, struct.pack(">L", code))


def goaway(last_stream: int, code: int = ErrorCode.NO_ERROR) -> bytes:
    """A GOAWAY frame."""
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">LL", last_stream, code))


def integer(number: int, bits: int, first: int = 0) -> bytes:
    """An HPACK integer with a prefix of so many bits, below the bits of `first` (RFC 7541, section 5.1)."""
    limit = (1 << bits) - 1
    if number < limit:
        return bytes((first | number,))
    out, number = bytearray((first | limit,)), number - limit
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def literal(name: str | bytes, value: str | bytes) -> bytes:
    """A field as a literal without indexing and without Huffman (RFC 7541, section 6.2.2)."""
    parts = [part if isinstance(part, bytes) else part.encode("latin-1") for part in (name, value)]
    return b"\x00" + b"".join(integer(len(part), 7) + part for part in parts)


def block(*fields: tuple[str, str]) -> bytes:
    """A header block of literals."""
    return b"".join(literal(name, value) for name, value in fields)


def request_block(path: str, *more: tuple[str, str], content_type: str = GRPC) -> bytes:
    """The header block of a gRPC request."""
    pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test")]
    return block(*pseudo, ("te", "trailers"), ("content-type", content_type), *more)


def message(content: bytes) -> bytes:
    """A gRPC message, uncompressed."""
    return b"\0" + struct.pack(">L", len(content)) + content


def call(stream: int, path: str, content: bytes) -> bytes:
    """A whole unary call."""
    opening = frame(Kind.HEADERS, END_HEADERS, stream, request_block(path))
    return opening + frame(Kind.DATA, END_STREAM, stream, message(content))
