"""HTTP/2 frames as bytes (RFC 9113): the few that the relay reads, rewrites or writes itself."""

from __future__ import annotations

from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER: Final = Struct(">HBBBL")  # length (24 bits, in two parts), type, flags, stream
HEADER_SIZE: Final = 9

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
FLOW_CONTROL_ERROR: Final = 0x3
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

HEADER_TABLE_SIZE: Final = 0x1
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
DEFAULT_MAX_FRAME_SIZE: Final = 16_384
LARGEST_FRAME: Final = (1 << 24) - 1
LAST_STREAM: Final = (1 << 31) - 1

_SETTING: Final = Struct(">HL")
_LENGTHS: Final = {RST_STREAM: 4, PING: 8}
_OF_CONNECTIONS: Final = frozenset((SETTINGS, PING, GOAWAY))


class FrameError(Exception):
    """A frame that ends the connection, with the HTTP/2 error code to end it with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamError(Exception):
    """A frame that ends its stream and nothing else, with the HTTP/2 error code to end it with."""

    def __init__(self, stream: int, code: int, message: str) -> None:
        super().__init__(message)
        self.stream = stream
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    length = len(payload)
    return HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def data_frames(flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    """DATA frames of a size that every peer takes, the last of them with `flags`. The payload, which may be a part of
    something larger, is copied once.
    """
    length = len(payload)
    if length <= DEFAULT_MAX_FRAME_SIZE:
        return b"".join((HEADER.pack(length >> 8, length & 0xFF, DATA, flags, stream), payload))
    view = memoryview(payload)
    full = HEADER.pack(DEFAULT_MAX_FRAME_SIZE >> 8, DEFAULT_MAX_FRAME_SIZE & 0xFF, DATA, 0, stream)
    parts: list[bytes | memoryview] = []
    at = 0
    while length - at > DEFAULT_MAX_FRAME_SIZE:
        parts += full, view[at : at + DEFAULT_MAX_FRAME_SIZE]
        at += DEFAULT_MAX_FRAME_SIZE
    rest = length - at
    parts += HEADER.pack(rest >> 8, rest & 0xFF, DATA, flags, stream), view[at:]
    return b"".join(parts)


def goaway(last_stream: int, code: int, message: str = "") -> bytes:
    """A GOAWAY frame: streams up to `last_stream` go on."""
    return frame(GOAWAY, 0, 0, Struct(">LL").pack(last_stream, code) + message.encode("ascii", "replace"))


def header_frames(stream: int, block: bytes, *, end_stream: bool, largest: int = DEFAULT_MAX_FRAME_SIZE) -> bytes:
    """A header block as one HEADERS frame, followed by CONTINUATION frames where it exceeds `largest`."""
    flags = END_STREAM if end_stream else 0
    length = len(block)
    if length <= largest:
        return HEADER.pack(length >> 8, length & 0xFF, HEADERS, flags | END_HEADERS, stream) + block
    parts = [block[i : i + largest] for i in range(0, len(block), largest)]
    frames = [frame(HEADERS, flags, stream, parts[0])]
    frames += [frame(CONTINUATION, 0, stream, part) for part in parts[1:-1]]
    frames.append(frame(CONTINUATION, END_HEADERS, stream, parts[-1]))
    return b"".join(frames)


def read_settings(payload: bytes) -> dict[int, int]:
    """The settings of a SETTINGS frame's payload; the last value of a repeated one counts.

    Raises FrameError when the payload is no whole number of settings.
    """
    if len(payload) % _SETTING.size:
        raise FrameError(FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    return dict(_SETTING.iter_unpack(payload))


def stateless_settings(payload: bytes, window: int | None = None) -> bytes:
    """A whole SETTINGS frame that says the same, and that header compression may use no dynamic table.

    Whoever receives it encodes header blocks that can each be read, dropped or replaced alone. `window` is the initial
    window of streams, where that is for the relay to say. Raises FrameError when the payload is no whole number of
    settings.
    """
    said = {HEADER_TABLE_SIZE: 0} if window is None else {INITIAL_WINDOW_SIZE: window, HEADER_TABLE_SIZE: 0}
    read_settings(payload)  # for what is malformed
    pairs = [pair for pair in _SETTING.iter_unpack(payload) if pair[0] not in said]
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in [*pairs, *said.items()]))


def check_control(kind: int, flags: int, stream: int, length: int) -> None:
    """Whether a frame other than DATA, HEADERS and CONTINUATION has the length and the stream that it must have.

    Raises FrameError (RFC 9113, sections 6.4 to 6.9).
    """
    if kind == WINDOW_UPDATE or kind > CONTINUATION:
        return  # its length is checked where it is read; what is unknown has no rules
    wanted = _LENGTHS.get(kind)
    if wanted is not None and length != wanted:
        raise FrameError(FRAME_SIZE_ERROR, f"a frame of type {kind} with {length} bytes")
    if kind == SETTINGS and flags & ACK and length:
        raise FrameError(FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with content")
    if kind == GOAWAY and length < 8:
        raise FrameError(FRAME_SIZE_ERROR, f"GOAWAY of {length} bytes")
    if (kind in _OF_CONNECTIONS) == (stream != 0):
        raise FrameError(PROTOCOL_ERROR, f"a frame of type {kind} of {'a' if stream else 'no'} stream")


def reset(stream: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def header_block(flags: int, payload: bytes) -> bytes:
    """The block fragment of a HEADERS payload, without padding and priority.

    Raises FrameError when the padding is longer than the frame.
    """
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise FrameError(FRAME_SIZE_ERROR, "padded HEADERS without a pad length")
        start, end = 1, end - payload[0]
    if flags & HAS_PRIORITY:
        start += 5
    if start > end:
        raise FrameError(PROTOCOL_ERROR, "HEADERS padding longer than the frame")
    return payload[start:end]


def unpadded(payload: bytes) -> bytes:
    """The content of a padded DATA payload. Raises FrameError when the padding is longer than the frame."""
    if not payload or payload[0] >= len(payload):
        raise FrameError(PROTOCOL_ERROR, "DATA padding longer than the frame")
    return payload[1 : len(payload) - payload[0]]


def consecutive_data(data: bytes, at: int, longest: int, places: list[tuple[int, int]]) -> int:
    """Where the frames end that follow a plain DATA frame and have the same type, flags and stream, and are whole and
    not longer than `longest`. Where the contents of all of them are is appended to `places`.
    """
    end = len(data)
    last = end - HEADER_SIZE
    alike = data[at + 3 : at + HEADER_SIZE]
    while at <= last and data.startswith(alike, at + 3):
        length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
        stop = at + HEADER_SIZE + length
        if stop > end or length > longest:
            break
        places.append((at + HEADER_SIZE, stop))
        at = stop
    return at
