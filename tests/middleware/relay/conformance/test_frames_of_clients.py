"""Claims of RFC 9113, sections 4 and 6, about frames that a client sends: each case names its section."""

from __future__ import annotations

import struct

import pytest
from benchmarks.harness.parts import INFER
from benchmarks.harness.raw_http2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PRIORITY_FLAG,
    RESERVED_BIT,
    ErrorCode,
    Kind,
    Setting,
    frame,
    message,
    request_block,
    settings,
    window_update,
)
from benchmarks.harness.raw_peers import RawPeer
from tests.middleware.relay.conformance.harness import (
    CALL,
    IGNORED,
    MODES,
    OPENING,
    QUESTION,
    SERVED,
    STREAM,
    Case,
    Trial,
    connection_error,
    stream_error,
)

PROTOCOL, SIZE, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR
COMPRESSION = ErrorCode.COMPRESSION_ERROR
BLOCK = request_block(INFER)
ASK = message(b"ok")
UNFINISHED = frame(Kind.HEADERS, 0, STREAM, BLOCK[:10])
REST = frame(Kind.CONTINUATION, END_HEADERS, STREAM, BLOCK[10:])


def too_large(peer: RawPeer) -> int:
    """A few bytes more than the other end takes in a frame."""
    largest = 16_384
    for received in peer.of(Kind.SETTINGS):
        largest = dict(struct.iter_unpack(">HL", received.payload)).get(Setting.MAX_FRAME_SIZE, largest)
    return largest - largest % 6 + 6  # a whole number of settings


FORMAT = [
    Case("4.1", "a frame of unknown type is ignored", frame(0x16, 0xFF, 0, b"x" * 8) + CALL, SERVED),
    Case("4.1", "a frame of unknown type on the stream is ignored",
         OPENING + frame(0x16, 0, STREAM) + QUESTION, SERVED),
    Case("4.1", "flags without a meaning are ignored", frame(Kind.PING, 0xFE, 0, b"12345678") + CALL, SERVED),
    Case(
        "4.1", "flags of DATA and HEADERS without a meaning are ignored",
        frame(Kind.HEADERS, END_HEADERS | 0x82, STREAM, BLOCK)
        + frame(Kind.DATA, END_STREAM | 0xF6, STREAM, ASK), SERVED,
    ),
    Case(
        "4.1", "the reserved bit of a stream's id is ignored",
        frame(Kind.HEADERS, END_HEADERS, RESERVED_BIT | STREAM, BLOCK)
        + frame(Kind.DATA, END_STREAM, RESERVED_BIT | STREAM, ASK), SERVED,
    ),
    Case(
        "4.1", "the reserved bit is ignored in some frames of a stream",
        frame(Kind.HEADERS, END_HEADERS, RESERVED_BIT | STREAM, BLOCK) + QUESTION, SERVED,
    ),
    Case(
        "4.1", "the reserved bit is ignored beside trailers without it",
        frame(Kind.HEADERS, END_HEADERS, RESERVED_BIT | STREAM, BLOCK)
        + frame(Kind.DATA, 0, RESERVED_BIT | STREAM, message(b"bad"))
        + frame(Kind.HEADERS, END_HEADERS | END_STREAM, STREAM, b""), stream_error(),
    ),
    Case(
        "4.1", "the reserved bit of CONTINUATION is ignored",
        UNFINISHED + frame(Kind.CONTINUATION, END_HEADERS, RESERVED_BIT | STREAM, BLOCK[10:]) + QUESTION, SERVED,
    ),
    Case(
        "4.1", "the reserved bit is ignored on the connection's stream",
        frame(Kind.PING, 0, RESERVED_BIT, b"12345678") + frame(Kind.SETTINGS, 0, RESERVED_BIT) + CALL, SERVED,
    ),
    Case("4.2", "DATA of 16,384 bytes passes",
         OPENING + frame(Kind.DATA, 0, STREAM, b"\0\0\0\xff\xff" + bytes(16_379)), IGNORED),
    Case(
        "4.2", "DATA over SETTINGS_MAX_FRAME_SIZE",
        lambda peer: peer.send(OPENING, frame(Kind.DATA, 0, STREAM, message(bytes(1 << 23))[: too_large(peer)])),
        connection_error(SIZE) | stream_error(SIZE), relay_decides=True,
    ),
    *(
        Case(
            "4.2", f"{name} over SETTINGS_MAX_FRAME_SIZE",
            lambda peer, kind=kind, stream=stream: peer.send(frame(kind, END_HEADERS, stream, bytes(too_large(peer)))),
            connection_error(SIZE), relay_decides=True,
        )
        for name, kind, stream in (
            ("HEADERS", Kind.HEADERS, STREAM), ("SETTINGS", Kind.SETTINGS, 0), ("a frame of unknown type", 0x16, 0)
        )
    ),
    Case(
        "4.3", "PRIORITY inside of a header block", UNFINISHED + frame(Kind.PRIORITY, 0, STREAM, bytes(4) + b"\x10"),
        connection_error(PROTOCOL),
    ),
    Case(
        "4.3", "HEADERS of another stream inside of a header block",
        UNFINISHED + frame(Kind.HEADERS, END_HEADERS, STREAM + 2, BLOCK) + REST, connection_error(PROTOCOL),
    ),
    Case(
        "5.5", "a frame of unknown type inside of a header block", UNFINISHED + frame(0x16, 0, 0, b"x") + REST,
        connection_error(PROTOCOL),
    ),
]  # fmt: skip

DATA_AND_HEADERS = [
    Case("6.1", "DATA on stream 0", frame(Kind.DATA, 0, 0, b"x"), connection_error(PROTOCOL)),
    Case("6.1", "padding is no content",
         OPENING + frame(Kind.DATA, END_STREAM | PADDED, STREAM, b"\4" + ASK + bytes(4)),
         SERVED),
    Case("6.1", "an empty DATA frame ends a stream", OPENING + frame(Kind.DATA, 0, STREAM, ASK)
         + frame(Kind.DATA, END_STREAM, STREAM), SERVED),
    Case("6.1", "padding alone ends a stream", OPENING + frame(Kind.DATA, 0, STREAM, ASK)
         + frame(Kind.DATA, END_STREAM | PADDED, STREAM, b"\2\0\0"),
         SERVED | stream_error(PROTOCOL)),  # C-core takes no padding: it resets the stream, before its answer or after
    Case("6.1", "padding as long as the payload",
         OPENING + frame(Kind.DATA, END_STREAM | PADDED, STREAM, b"\6" + b"hello"),
         connection_error(PROTOCOL), relay_decides=True),
    Case("6.1", "padded DATA without a pad length", OPENING + frame(Kind.DATA, END_STREAM | PADDED, STREAM),
         connection_error(PROTOCOL, SIZE), relay_decides=True),
    Case("6.2", "HEADERS on stream 0", frame(Kind.HEADERS, END_HEADERS, 0, BLOCK), connection_error(PROTOCOL)),
    Case("6.2", "padding and priority are no content",
         frame(Kind.HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, STREAM, b"\3" + bytes(4) + b"\x10" + BLOCK
         + bytes(3))
         + QUESTION, SERVED),
    Case("6.2", "padding longer than the payload",
         frame(Kind.HEADERS, END_HEADERS | PADDED, STREAM, b"\xff" + BLOCK[:20]),
         connection_error(PROTOCOL), relay_decides=True),
    Case("6.2", "padded HEADERS without a pad length", frame(Kind.HEADERS, END_HEADERS | PADDED, STREAM),
         connection_error(PROTOCOL, SIZE), relay_decides=True),
    Case("6.2", "HEADERS with priority and no place for it",
         frame(Kind.HEADERS, END_HEADERS | PRIORITY_FLAG, STREAM, b"\0\0"),
         connection_error(PROTOCOL, SIZE), relay_decides=True),
    Case("6.2", "HEADERS without END_HEADERS, followed by DATA", UNFINISHED + QUESTION, connection_error(PROTOCOL)),
]  # fmt: skip

SHORT_FRAMES = [
    Case("6.3", "PRIORITY changes nothing", frame(Kind.PRIORITY, 0, STREAM, bytes(4) + b"\x10") + CALL, SERVED),
    Case("6.3", "PRIORITY on stream 0", frame(Kind.PRIORITY, 0, 0, bytes(4) + b"\x10"), connection_error(PROTOCOL)),
    Case("6.3", "PRIORITY of four bytes", OPENING + frame(Kind.PRIORITY, 0, STREAM, bytes(4)),
         stream_error(SIZE) | connection_error(SIZE)),
    Case("6.4", "RST_STREAM on stream 0", frame(Kind.RST_STREAM, 0, 0, bytes(4)), connection_error(PROTOCOL)),
    Case("6.4", "RST_STREAM of three bytes", OPENING + frame(Kind.RST_STREAM, 0, STREAM, bytes(3)),
         connection_error(SIZE)),
    Case("6.5", "SETTINGS on a stream", frame(Kind.SETTINGS, 0, STREAM), connection_error(PROTOCOL)),
    Case("6.5", "an acknowledgement with settings", frame(Kind.SETTINGS, ACK, 0, bytes(6)), connection_error(SIZE)),
    Case("6.5", "half a setting", frame(Kind.SETTINGS, 0, 0, bytes(3)), connection_error(SIZE), relay_decides=True),
    Case("6.5.2", "an unknown setting is ignored", settings((0xFF, 7)) + CALL, SERVED),
    Case("6.5.2", "ENABLE_PUSH of 2", settings((Setting.ENABLE_PUSH, 2)), connection_error(PROTOCOL)),
    Case("6.5.2", "INITIAL_WINDOW_SIZE over its limit", settings((Setting.INITIAL_WINDOW_SIZE, 1 << 31)),
         connection_error(FLOW), relay_decides=True),
    Case("6.5.2", "MAX_FRAME_SIZE under its limit", settings((Setting.MAX_FRAME_SIZE, 16_383)),
         connection_error(PROTOCOL)),
    Case("6.5.2", "MAX_FRAME_SIZE over its limit", settings((Setting.MAX_FRAME_SIZE, 1 << 24)),
         connection_error(PROTOCOL)),
    Case("6.6", "PUSH_PROMISE from a client",
         OPENING + frame(Kind.PUSH_PROMISE, END_HEADERS, STREAM, bytes(3) + b"\2" + BLOCK),
         connection_error(PROTOCOL)),
    Case("6.7", "a PING acknowledgement is not answered", frame(Kind.PING, ACK, 0, b"unwanted") + CALL, SERVED),
    Case("6.7", "PING on a stream", frame(Kind.PING, 0, STREAM, bytes(8)), connection_error(PROTOCOL)),
    Case("6.7", "PING of seven bytes", frame(Kind.PING, 0, 0, bytes(7)), connection_error(SIZE)),
    Case("6.8", "GOAWAY on a stream", frame(Kind.GOAWAY, 0, STREAM, bytes(8)), connection_error(PROTOCOL)),
    Case("6.8", "GOAWAY of four bytes", frame(Kind.GOAWAY, 0, 0, bytes(4)), connection_error(SIZE)),
]  # fmt: skip

WINDOWS = [
    Case("6.9", "WINDOW_UPDATE of 0 on the connection", window_update(0, 0), connection_error(PROTOCOL),
         relay_decides=True),
    Case("6.9", "WINDOW_UPDATE of 0 on a stream", OPENING + window_update(STREAM, 0), stream_error(PROTOCOL),
         relay_decides=True),
    Case("6.9", "WINDOW_UPDATE of the reserved bit alone on a stream", OPENING + window_update(STREAM, RESERVED_BIT),
         stream_error(PROTOCOL), relay_decides=True),
    Case("6.9", "the reserved bit of an increment is ignored",
         window_update(0, RESERVED_BIT | 1) + OPENING + window_update(STREAM, RESERVED_BIT | 1) + QUESTION, SERVED),
    Case("6.9", "WINDOW_UPDATE of three bytes", frame(Kind.WINDOW_UPDATE, 0, 0, bytes(3)), connection_error(SIZE),
         relay_decides=True),
    Case("6.9", "WINDOW_UPDATE of five bytes on a stream", OPENING + frame(Kind.WINDOW_UPDATE, 0, STREAM, bytes(5)),
         connection_error(SIZE), relay_decides=True),
    Case("6.9.1", "the connection's window over its limit", window_update(0, MAX_WINDOW) * 2, connection_error(FLOW),
         relay_decides=True),
    Case("6.9.1", "a stream's window over its limit", OPENING + window_update(STREAM, MAX_WINDOW) * 2,
         stream_error(FLOW), relay_decides=True),
    Case("6.9.2", "SETTINGS that take a stream's window over its limit",
         OPENING + window_update(STREAM, MAX_WINDOW - 65_535) + settings((Setting.INITIAL_WINDOW_SIZE, 65_536)),
         connection_error(FLOW) | stream_error(FLOW), relay_decides=True),
]  # fmt: skip

CONTINUATIONS = [
    Case("6.10", "a header block in many frames", frame(Kind.HEADERS, 0, STREAM, b"") + b"".join(
        frame(Kind.CONTINUATION, 0, STREAM, BLOCK[at : at + 8]) for at in range(0, len(BLOCK), 8))
        + frame(Kind.CONTINUATION, END_HEADERS, STREAM) + QUESTION, SERVED),
    Case("6.10", "CONTINUATION followed by DATA",
         UNFINISHED + frame(Kind.CONTINUATION, 0, STREAM, BLOCK[10:]) + QUESTION,
         connection_error(PROTOCOL)),
    Case("6.10", "CONTINUATION of another stream",
         UNFINISHED + frame(Kind.CONTINUATION, END_HEADERS, STREAM + 2, BLOCK[10:]),
         connection_error(PROTOCOL)),
    Case("6.10", "CONTINUATION on stream 0", UNFINISHED + frame(Kind.CONTINUATION, END_HEADERS, 0, BLOCK[10:]),
         connection_error(PROTOCOL)),
    Case("6.10", "CONTINUATION after a header block that has ended",
         OPENING + frame(Kind.CONTINUATION, END_HEADERS, STREAM, BLOCK), connection_error(PROTOCOL)),
    Case("6.10", "CONTINUATION after CONTINUATION that has ended the block",
         UNFINISHED + REST + frame(Kind.CONTINUATION, END_HEADERS, STREAM, b""), connection_error(PROTOCOL)),
    Case("6.10", "CONTINUATION after DATA", OPENING + frame(Kind.DATA, 0, STREAM, ASK)
         + frame(Kind.CONTINUATION, END_HEADERS, STREAM, BLOCK), connection_error(PROTOCOL)),
    Case("7", "unknown error codes change nothing",
         frame(Kind.HEADERS, END_HEADERS, STREAM - 2 + 4, BLOCK) + frame(Kind.RST_STREAM, 0, STREAM
         + 2, struct.pack(">L", 0xFFFF)),
         IGNORED),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [*FORMAT, *DATA_AND_HEADERS, *SHORT_FRAMES, *WINDOWS, *CONTINUATIONS], ids=str)
def test_frames(trial: Trial, case: Case, mode: str) -> None:
    trial.check(case, mode)
