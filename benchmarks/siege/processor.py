"""Attacks on the external processor: what no Envoy should say, or what it leaves unread."""

from __future__ import annotations

import os
import struct
import time

from benchmarks.harness.chat import CHAT, USUAL, stream
from benchmarks.harness.envoy_messages import ProcessingRequest
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Kind,
    Setting,
    block,
    frame,
    message,
    reset,
    settings,
    window_update,
)
from benchmarks.harness.raw_peers import RawPeer
from benchmarks.siege.ground import Ground
from benchmarks.siege.memory import LONGEST, NO_WINDOW, at_once, cut, pour

PROCESS = block(
    (":method", "POST"), (":scheme", "http"), (":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
    (":authority", "tocsin"), ("content-type", "application/grpc"), ("te", "trailers"),
)  # fmt: skip
DUPLEX, BUFFERED = 4, 2
WIDE = PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 1 << 24))


def said(**parts: object) -> bytes:
    """One of Envoy's messages, framed."""
    return message(ProcessingRequest(**parts).SerializeToString())


def _fields(*pairs: tuple[str, str]) -> dict[str, object]:
    return {"headers": {"headers": [{"key": name, "raw_value": value.encode()} for name, value in pairs]}}


def opening_of(mode: int, *, kind: str = "text/event-stream") -> bytes:
    """What Envoy says of a request, and of a response that begins."""
    request = _fields((":method", "POST"), (":path", CHAT))
    response = _fields((":status", "200"), ("content-type", kind))
    return said(request_headers=request, protocol_config={"response_body_mode": mode}) + said(response_headers=response)


def open_stream(peer: RawPeer, number: int, content: bytes = b"") -> None:
    """Open a stream of Envoy's, and say something on it."""
    peer.send(frame(Kind.HEADERS, END_HEADERS, number, PROCESS), *_data(number, content))


def _data(number: int, content: bytes) -> list[bytes]:
    return [frame(Kind.DATA, 0, number, part) for part in cut(content)]


def processor_streams(ground: Ground) -> None:
    """Streams without an end, most of which say nothing."""
    first = opening_of(DUPLEX)

    def flood() -> None:
        peer = ground.open(ground.processor)
        for number in range(1, 40_001, 2):
            content = b"".join(_data(number, first)) if number % 8 == 1 else b""
            if peer.closed or not pour(peer, [frame(Kind.HEADERS, END_HEADERS, number, PROCESS) + content]):
                return

    at_once([flood] * 4)


def processor_resets(ground: Ground) -> None:
    """Streams that are begun and reset at once."""
    peer, first = ground.open(ground.processor), opening_of(DUPLEX)
    pour(peer, (
        frame(Kind.HEADERS, END_HEADERS, number, PROCESS) + b"".join(_data(number, first)) + reset(number)
        for number in range(1, 40_001, 2)
    ))  # fmt: skip


def processor_unread(ground: Ground) -> None:
    """Replies that nobody has a window for, and sockets that nobody reads."""
    events = b"".join(stream([USUAL] * 200)[:-1])
    for reads in (True, False) * 6:
        peer = ground.open(ground.processor, first=NO_WINDOW, reads=reads)
        for number in range(1, 41, 2):
            open_stream(peer, number, opening_of(DUPLEX))
            pour(peer, _data(number, said(response_body={"body": events})) * 4, 1 << 20)


def processor_nonsense(ground: Ground) -> None:
    """Messages that are no protobuf, that nest without an end, or that are of another kind."""
    nested = b"\x1b" * 4_000
    junk = [os.urandom(200), nested, b"\x0a" + struct.pack("<L", 0xFFFFFFFF)[:4], b"\xff" * 64, b""]

    def flood() -> None:
        for _ in range(4):
            peer = ground.open(ground.processor)
            pour(peer, (
                frame(Kind.HEADERS, END_HEADERS, number, PROCESS) + b"".join(_data(number, message(junk[number % 5])))
                for number in range(1, 4_001, 2)
            ))  # fmt: skip

    at_once([flood] * 3)


def processor_endless_bodies(ground: Ground) -> None:
    """Responses whose bodies never end: an event, a document, and a message of Envoy's that lacks its last byte."""

    def pieces(number: int, first: bytes, kind: str) -> list[bytes]:
        head = frame(Kind.HEADERS, END_HEADERS, number, PROCESS) + b"".join(
            _data(number, opening_of(DUPLEX, kind=kind))
        )
        part = b"".join(_data(number, said(response_body={"body": bytes(15_000)})))
        return [head + b"".join(_data(number, said(response_body={"body": first})))] + [part] * 4_000

    def endless(first: bytes, kind: str) -> None:
        for _ in range(4):
            peer = ground.open(ground.processor, first=WIDE)
            peer.send(window_update(0, 1 << 26))
            pour(peer, pieces(1, first, kind))

    def unfinished() -> None:
        peer = ground.open(ground.processor)
        open_stream(peer, 1, b"\0" + struct.pack(">L", 4 << 20))
        pour(peer, (frame(Kind.DATA, 0, 1, bytes(16_000)) for _ in range(4_000)))

    event, document = (b"data: ", "text/event-stream"), (b'{"x":"', "application/json")
    at_once([lambda: endless(*event), lambda: endless(*document), unfinished])


def processor_half_open(ground: Ground) -> None:
    """Hundreds of connections that send nothing, half a preface, or a stream that is half closed at once."""
    for number in range(400):
        half = PREFACE + settings() + frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, PROCESS)
        ground.dial(ground.processor, (b"", PREFACE[:9], half)[number % 3])
    time.sleep(min(2.0, LONGEST))


ATTACKS = [
    processor_streams, processor_resets, processor_unread, processor_nonsense, processor_endless_bodies,
    processor_half_open,
]  # fmt: skip
OPTIONS: dict[str, dict[str, object]] = {attack.__name__: {"http": True} for attack in ATTACKS}
