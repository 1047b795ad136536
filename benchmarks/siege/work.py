"""Attacks on time: cheap frames that cost much, connections that say nothing, and answers of many rows."""

from __future__ import annotations

import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import grpc

from benchmarks.harness.parts import INFER
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Kind,
    Setting,
    call,
    frame,
    literal,
    request_block,
    reset,
    settings,
    window_update,
)
from benchmarks.harness.raw_peers import RawPeer
from benchmarks.siege.ground import Ground
from benchmarks.siege.memory import LONGEST, NO_WINDOW, pour
from benchmarks.siege.messages import GIANT, OK

WAITING = 4_000  # answers that wait for a window
SILENT = 400  # connections


def _waiting(ground: Ground) -> RawPeer:
    """A caller for whom thousands of answers wait, that it has no window for."""
    peer = ground.open(first=NO_WINDOW)
    ends = time.monotonic() + LONGEST
    for begin in range(0, WAITING, 200):
        streams = range(2 * begin + 1, 2 * begin + 401, 2)
        peer.send(*(call(stream, INFER, OK) for stream in streams))
        peer.until(lambda last=streams[-1]: peer.closed or peer.of(Kind.HEADERS, last), 2)  # type: ignore[misc]
        if time.monotonic() > ends:
            break
    return peer


def windows_drip(ground: Ground) -> Iterator[None]:
    """Thousands of answers wait; 65 KB of WINDOW_UPDATE open the connection's window byte by byte."""
    peer = _waiting(ground)
    yield
    peer.send(window_update(0, 1) * 5_000)
    peer.send(window_update(1, 1) * 5_000)
    peer.ping(LONGEST)


def settings_flips(ground: Ground) -> Iterator[None]:
    """Thousands of answers wait; SETTINGS change the window of all of them again and again."""
    peer = _waiting(ground)
    yield
    flip = settings((Setting.INITIAL_WINDOW_SIZE, 1)) + settings((Setting.INITIAL_WINDOW_SIZE, 0))
    pour(peer, (flip * 10 for _ in range(100)))
    peer.ping(LONGEST)


def early_header_blocks(ground: Ground) -> None:
    """Large header blocks before the relay's SETTINGS are acknowledged, each field named again and again."""
    field = b"\x40" + literal("n" * 8, "v" * 4_000)[1:]
    blocks = request_block(INFER) + field + b"\xbe" * 60_000
    for _ in range(3):
        peer = ground.open(first=PREFACE + settings(), reads=False)
        for stream in range(1, 25, 2):
            pieces = [blocks[at : at + 16_000] for at in range(0, len(blocks), 16_000)]
            peer.send(frame(Kind.HEADERS, END_STREAM, stream, pieces[0]))
            for piece in pieces[1:-1]:
                peer.send(frame(Kind.CONTINUATION, 0, stream, piece))
            peer.send(frame(Kind.CONTINUATION, END_HEADERS, stream, pieces[-1]))


def silent_connections(ground: Ground) -> None:
    """Hundreds of connections that send nothing, or half a preface."""
    for number in range(SILENT):
        ground.dial(ground.attacked, PREFACE[:9] if number % 2 else b"")


def half_handshakes(ground: Ground) -> None:
    """Hundreds of TLS handshakes that stop after their first flight."""
    context, incoming, outgoing = ssl.create_default_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()
    for number in range(SILENT):
        ground.dial(ground.tls, hello if number % 2 else hello[:20])


def silent_on_metrics(ground: Ground) -> None:
    """Hundreds of connections to the metrics port that send nothing, or half a request."""
    for number in range(SILENT // 2):
        ground.dial(ground.metrics, b"GET /metrics HTTP/1.1\r\nx: " if number % 2 else b"")


def silent_on_admin(ground: Ground) -> None:
    """Hundreds of connections to the admin port that send nothing, or half a preface."""
    for number in range(SILENT // 2):
        ground.dial(ground.admin, PREFACE[:9] if number % 2 else b"")


def giant_batch(ground: Ground) -> None:
    """Answers of 400,000 rows."""
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(ground.attacked, options) as channel:
        for _ in range(2):
            with suppress(grpc.RpcError):
                channel.unary_unary(INFER)(GIANT, timeout=LONGEST)


def pings(ground: Ground) -> None:
    """PINGs, as many as the socket takes."""
    _flood(ground, frame(Kind.PING, 0, 0, bytes(8)))


def resets(ground: Ground) -> None:
    """Calls that are begun and reset at once."""
    peer = ground.open()
    opened = request_block(INFER)
    pour(peer, (frame(Kind.HEADERS, END_HEADERS, stream, opened) + reset(stream) for stream in range(1, 100_001, 2)))


def empty_frames(ground: Ground) -> None:
    """DATA, PRIORITY, SETTINGS and frames of unknown type, with nothing in them."""
    peer = ground.open()
    peer.send(frame(Kind.HEADERS, END_HEADERS, 1, request_block(INFER)))
    pour(peer, (frame(Kind.DATA, 0, 1) * 100 for _ in range(1_000)))
    _flood(ground, frame(Kind.PRIORITY, 0, 1, bytes(5)))
    _flood(ground, settings())
    _flood(ground, frame(0x77, 0, 0))


def window_updates(ground: Ground) -> None:
    """WINDOW_UPDATE of the connection and of streams that do not exist any more."""
    _flood(ground, frame(Kind.WINDOW_UPDATE, 0, 0, struct.pack(">L", 1)))
    peer = ground.open()
    peer.send(call(1, INFER, OK))
    peer.until(lambda: peer.closed or peer.has_ended(1))
    pour(peer, (window_update(1, 1) * 100 for _ in range(1_000)))


def _flood(ground: Ground, unit: bytes) -> None:
    pour(ground.open(), (unit * 100 for _ in range(1_000)))


ATTACKS = [
    windows_drip, settings_flips, early_header_blocks, silent_connections, half_handshakes, silent_on_metrics,
    silent_on_admin, giant_batch, pings, resets, empty_frames, window_updates,
]  # fmt: skip
OPTIONS: dict[str, dict[str, object]] = {"giant_batch": {"giant": True, "max_memory": "160MiB"}}
