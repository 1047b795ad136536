"""A caller that misbehaves beside the ordinary traffic: it ignores windows, never reads, floods, and vanishes."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.harness.parts import INFER
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    PADDED,
    PREFACE,
    Kind,
    Setting,
    call,
    frame,
    message,
    request_block,
    reset,
    settings,
    window_update,
)
from benchmarks.harness.raw_peers import RawPeer, connect

LONGEST = 2.0  # seconds that one of them goes on
MOST = 8 << 20  # bytes that it sends
NO_WINDOW = PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 0))
UP, DOWN = "/test.Model/Up", "/test.Model/Down"


def misbehave(target: str, what: str, lasts: float) -> None:
    """One connection that does one of `WAYS`. It is closed so many seconds later."""
    try:
        peer = WAYS[what](target)
    except OSError:
        return  # the relay is being restarted
    time.sleep(lasts)
    peer.close()


def _pour(peer: RawPeer, piece: bytes) -> RawPeer:
    ends, sent = time.monotonic() + LONGEST, 0
    peer.socket.settimeout(0.5)
    while sent < MOST and not peer.closed and time.monotonic() < ends and peer.send(piece):
        sent += len(piece)
    return peer


def _ignore_windows(target: str) -> RawPeer:
    peer = connect(target)
    peer.send(frame(Kind.HEADERS, END_HEADERS, 1, request_block(UP, ("sleep", "1"))))
    peer.send(frame(Kind.DATA, 0, 1, message(bytes(3_900_000))[:5]))
    return _pour(peer, frame(Kind.DATA, 0, 1, bytes(16_000)) * 16)


def _read_nothing(target: str) -> RawPeer:
    peer = connect(
        target, PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 1 << 30)), reads=False, receive_buffer=4_096
    )
    peer.send(*(call(stream, INFER, b"safe 1") for stream in range(1, 401, 2)))
    return peer


def _give_no_window(target: str) -> RawPeer:
    peer = connect(target, NO_WINDOW)
    for stream in range(1, 21, 2):
        peer.send(frame(Kind.HEADERS, END_HEADERS, stream, request_block(DOWN, ("count", "20"))))
        peer.send(frame(Kind.DATA, 1, stream, message(bytes(16_000))))
    peer.send(window_update(0, 1) * 1_000)
    return peer


def _break_off(target: str) -> RawPeer:
    peer = connect(target)
    peer.send(frame(Kind.HEADERS, END_HEADERS, 1, request_block(UP)))
    peer.send(frame(Kind.DATA, PADDED, 1, bytes(1 << 14))[:9], bytes(5_000))
    return peer


def _break_rules(target: str) -> RawPeer:
    peer = connect(target)
    peer.send(call(1, INFER, b"safe 1"), window_update(1, 0), frame(Kind.PING, 0, 0, bytes(7)))
    return peer


def _flood(unit: bytes) -> Callable[[str], RawPeer]:
    return lambda target: _pour(connect(target), unit * 100)


def _reset_calls(target: str) -> RawPeer:
    peer, head = connect(target), request_block(INFER)
    peer.send(*(frame(Kind.HEADERS, END_HEADERS, stream, head) + reset(stream) for stream in range(1, 2_001, 2)))
    return peer


def _say_nothing(target: str) -> RawPeer:
    return connect(target, PREFACE[:7])


WAYS: dict[str, Callable[[str], RawPeer]] = {
    "ignores windows": _ignore_windows,
    "reads nothing": _read_nothing,
    "gives no window": _give_no_window,
    "breaks off in a frame": _break_off,
    "breaks rules": _break_rules,
    "floods with PING": _flood(frame(Kind.PING, 0, 0, bytes(8))),
    "floods with SETTINGS": _flood(settings()),
    "resets calls": _reset_calls,
    "says nothing": _say_nothing,
}
