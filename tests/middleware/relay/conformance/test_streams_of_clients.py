"""Claims of RFC 9113, sections 3 and 5, about streams and connections that a client opens: each names its section."""

from __future__ import annotations

import pytest
from benchmarks.harness.parts import INFER
from benchmarks.harness.raw_http2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    ErrorCode,
    Kind,
    call,
    frame,
    message,
    request_block,
    reset,
    settings,
    window_update,
)
from benchmarks.harness.raw_peers import RawPeer, connect
from tests.middleware.relay.conformance.harness import (
    CALL,
    IGNORED,
    MODES,
    OPENING,
    SERVED,
    STREAM,
    Case,
    Surroundings,
    Trial,
    connection_error,
    gives_everything_back,
    is_served,
    stream_error,
)

PROTOCOL, CLOSED, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.STREAM_CLOSED, ErrorCode.FLOW_CONTROL_ERROR
BLOCK = request_block(INFER)
NEXT = STREAM + 2
DATA = frame(Kind.DATA, 0, STREAM, message(b"bad"))
MUST_NOT_END = stream_error(CLOSED) | connection_error(CLOSED, PROTOCOL) | IGNORED  # an answer may have gone out


def after_answer(*then: bytes) -> object:
    """A call that is answered, then this."""

    def send(peer: RawPeer) -> None:
        peer.send(CALL)
        assert peer.until(lambda: peer.has_ended(STREAM))
        peer.send(*then)

    return send


IDLE = [
    Case("5.1", "DATA on an idle stream", DATA, connection_error(PROTOCOL)),
    Case("5.1", "DATA on an idle stream, with its end", frame(Kind.DATA, END_STREAM, STREAM, message(b"bad")),
         connection_error(PROTOCOL)),
    Case("5.1", "RST_STREAM on an idle stream", reset(STREAM), connection_error(PROTOCOL)),
    Case("5.1", "WINDOW_UPDATE on an idle stream", window_update(STREAM, 1), connection_error(PROTOCOL)),
    Case("5.1", "CONTINUATION on an idle stream", frame(Kind.CONTINUATION, END_HEADERS, STREAM, BLOCK),
         connection_error(PROTOCOL)),
    Case("5.1", "PRIORITY on an idle stream", frame(Kind.PRIORITY, 0, NEXT, bytes(4) + b"\x10") + CALL, SERVED),
]  # fmt: skip

HALF_CLOSED = [
    Case("5.1", "DATA after the end of a request",
         CALL + DATA, stream_error(CLOSED) | connection_error(CLOSED) | IGNORED),
    Case("5.1", "HEADERS after the end of a request",
         CALL + frame(Kind.HEADERS, END_HEADERS | END_STREAM, STREAM, BLOCK),
         stream_error(CLOSED, PROTOCOL) | connection_error(CLOSED, PROTOCOL) | IGNORED),
    Case("5.1", "CONTINUATION after the end of a request", CALL + frame(Kind.CONTINUATION, END_HEADERS, STREAM, BLOCK),
         connection_error(PROTOCOL, CLOSED)),
    Case("5.1", "WINDOW_UPDATE after the end of a request", CALL + window_update(STREAM, 100), SERVED),
    Case("5.1", "PRIORITY after the end of a request",
         CALL + frame(Kind.PRIORITY, 0, STREAM, bytes(4) + b"\x10"), SERVED),
]  # fmt: skip

CLOSED_STREAMS = [
    Case("5.1", "DATA after RST_STREAM", OPENING + reset(STREAM) + DATA, MUST_NOT_END),
    Case("5.1", "HEADERS after RST_STREAM", OPENING + reset(STREAM) + frame(Kind.HEADERS, END_HEADERS, STREAM, BLOCK),
         MUST_NOT_END),
    Case("5.1", "a whole call again after RST_STREAM",
         OPENING + reset(STREAM) + frame(Kind.HEADERS, END_HEADERS, STREAM, BLOCK) + DATA
         + frame(Kind.DATA, END_STREAM, STREAM), MUST_NOT_END),
    Case("5.1", "CONTINUATION after RST_STREAM",
         OPENING + reset(STREAM) + frame(Kind.CONTINUATION, END_HEADERS, STREAM, BLOCK),
         connection_error(PROTOCOL, CLOSED)),
    Case("5.1", "WINDOW_UPDATE after RST_STREAM", OPENING + reset(STREAM) + window_update(STREAM, 100), IGNORED),
    Case("5.1", "RST_STREAM after RST_STREAM", OPENING + reset(STREAM) * 3, IGNORED),
    Case("5.1", "DATA after the answer", after_answer(DATA), stream_error(CLOSED) | connection_error(CLOSED) | SERVED),
    Case("5.1", "HEADERS after the answer", after_answer(frame(Kind.HEADERS, END_HEADERS | END_STREAM, STREAM, BLOCK)),
         connection_error(CLOSED, PROTOCOL) | stream_error(CLOSED) | SERVED),
    Case("5.1", "a whole call again after the answer", after_answer(call(STREAM, INFER, b"bad")),
         connection_error(CLOSED, PROTOCOL) | stream_error(CLOSED) | SERVED),
    Case("5.1", "WINDOW_UPDATE after the answer", after_answer(window_update(STREAM, 100)), SERVED),
    Case("5.1", "WINDOW_UPDATE of 0 after the answer", after_answer(window_update(STREAM, 0)),
         SERVED | connection_error(PROTOCOL)),
    Case("5.1", "RST_STREAM after the answer", after_answer(reset(STREAM)), SERVED),
    Case("5.1", "PRIORITY after the answer", after_answer(frame(Kind.PRIORITY, 0, STREAM, bytes(4) + b"\x10")), SERVED),
]  # fmt: skip

IDENTIFIERS = [
    Case("5.1.1", "an even stream from a client", frame(Kind.HEADERS, END_HEADERS, 2, BLOCK)
         + frame(Kind.DATA, END_STREAM, 2, message(b"bad")), connection_error(PROTOCOL), relay_decides=True),
    Case("5.1.1", "a stream below one that was opened", frame(Kind.HEADERS, END_HEADERS, NEXT, BLOCK) + OPENING
         + frame(Kind.DATA, END_STREAM, STREAM, message(b"bad")), connection_error(PROTOCOL), relay_decides=True),
    Case("5.1.1", "streams may be left out", frame(Kind.HEADERS, END_HEADERS, 901, BLOCK)
         + frame(Kind.DATA, END_STREAM, 901, message(b"ok")), IGNORED),
    Case("5.3.1", "a stream that depends on itself", frame(Kind.PRIORITY, 0, STREAM, b"\0\0\0\3\x10") + CALL, SERVED),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [*IDLE, *HALF_CLOSED, *CLOSED_STREAMS, *IDENTIFIERS], ids=str)
def test_streams(trial: Trial, case: Case, mode: str) -> None:
    trial.check(case, mode)


BEGINNINGS = {
    "3.4 no preface": settings() + frame(Kind.SETTINGS, ACK, 0) + call(1, INFER, b"bad"),
    "3.4 half a preface, then frames": PREFACE[:12] + settings() + call(1, INFER, b"bad"),
    "3.4 a preface with another ending": PREFACE[:-2] + b"XX" + settings() + call(1, INFER, b"bad"),
    "3.4 HEADERS before SETTINGS": PREFACE + call(1, INFER, b"bad"),
    "3.4 PING before SETTINGS": PREFACE + frame(Kind.PING, 0, 0, bytes(8)),
    "3.4 an acknowledgement before SETTINGS": PREFACE + frame(Kind.SETTINGS, ACK, 0) + call(1, INFER, b"bad"),
    "9113 9.1 HTTP/1.1": b"POST " + INFER.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nbad",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BEGINNINGS)
def test_connections_that_do_not_begin_as_they_must_end(surroundings: Surroundings, name: str, mode: str) -> None:
    relay = surroundings.relays[mode]
    peer = connect(relay.target, BEGINNINGS[name])
    if not peer.until(lambda: peer.closed, 5):
        by_itself = connect(surroundings.direct, BEGINNINGS[name])
        assert not by_itself.until(lambda: by_itself.closed, 5), "the upstream ends it, the relay does not"
        by_itself.close()
    assert mode != "enforce" or not peer.data()
    peer.close()
    assert is_served(relay.target)
    assert gives_everything_back(relay)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [1, 8, 9, 15, 24, 30, 40, 60])
def test_a_connection_that_breaks_off_anywhere_leaves_nothing(surroundings: Surroundings, cut: int, mode: str) -> None:
    """5.4.1: an end of the connection ends its streams."""
    relay = surroundings.relays[mode]
    peer = connect(relay.target, (PREFACE + settings() + call(1, INFER, b"ok"))[:-cut])
    peer.close()
    assert is_served(relay.target)
    assert gives_everything_back(relay)


@pytest.mark.parametrize("mode", MODES)
def test_after_an_error_goaway_names_the_last_stream_and_never_a_larger_one(
    surroundings: Surroundings, mode: str
) -> None:
    """5.4.1 and 6.8."""
    relay = surroundings.relays[mode]
    peer = connect(relay.target)
    peer.send(call(1, INFER, b"ok"), call(7, INFER, b"ok"))
    assert peer.until(lambda: peer.has_ended(7))
    peer.send(frame(Kind.PING, 0, 0, bytes(7)))
    assert peer.until(lambda: peer.closed)
    last_streams = [int.from_bytes(goaway.payload[:4], "big") for goaway in peer.of(Kind.GOAWAY)]
    assert last_streams == sorted(last_streams, reverse=True)
    assert all(last == (1 << 31) - 1 or 0 <= last <= 7 for last in last_streams)
