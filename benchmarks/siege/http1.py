"""Attacks on the relay of HTTP/1.1: what callers and a model server send, or leave unread, that it might keep."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from contextlib import suppress

from benchmarks.harness.chat import CHAT
from benchmarks.siege.ground import Ground
from benchmarks.siege.http_server import FILLER
from benchmarks.siege.memory import LONGEST, at_once

BODY = b'{"model":"m","messages":[{"role":"user","content":"safe"}]}'
POST = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
MOST = 64 << 20


def question(kind: str = "") -> bytes:
    """A request for an answer of a kind."""
    wanted = b"x-answer: " + kind.encode() + b"\r\n" if kind else b""
    return POST + wanted + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


def send(caller: socket.socket, pieces: Iterable[bytes], most: int = MOST) -> int:
    """Send until the relay stops reading, closes, or `most` bytes are sent; how many were."""
    ends, sent = time.monotonic() + LONGEST, 0
    caller.settimeout(1.0)
    with suppress(OSError):
        for piece in pieces:
            if sent >= most or time.monotonic() > ends:
                break
            caller.sendall(piece)
            sent += len(piece)
    return sent


def received(caller: socket.socket, most: int = 1 << 20) -> bytes:
    """What comes within two seconds, or until so much has come."""
    parts, size, ends = list[bytes](), 0, time.monotonic() + 2
    with suppress(OSError):
        while size < most and time.monotonic() < ends:
            caller.settimeout(max(0.01, ends - time.monotonic()))
            part = caller.recv(1 << 16)
            if not part:
                break
            parts.append(part)
            size += len(part)
    return b"".join(parts)


def http_answers_unread(ground: Ground) -> None:
    """Forty callers that ask for streams of megabytes and read nothing."""
    for _ in range(40):
        ground.call(question("events"), reads=False)
    time.sleep(4)


def http_slow_readers(ground: Ground) -> None:
    """Twenty callers that read a byte now and then."""
    callers = [ground.call(question("events"), reads=False) for _ in range(20)]
    for _ in range(40):
        for caller in callers:
            with suppress(OSError):
                caller.settimeout(0.001)
                caller.recv(1)
        time.sleep(0.05)


def http_half_open(ground: Ground) -> None:
    """Hundreds of connections that send nothing, half a head, half a body, or that end in the middle of one."""
    for number in range(400):
        first = (b"", b"POST /v1", POST, POST + b"content-length: 1000\r\n\r\n" + BODY)[number % 4]
        caller = ground.call(first, reads=False)
        if number % 8 > 3:
            with suppress(OSError):
                caller.shutdown(socket.SHUT_WR)


def http_header_floods(ground: Ground) -> None:
    """Heads that never end: of long fields, of short ones, and of one line."""
    field, short, line = b"x-long: " + FILLER + b"\r\n", b"a: b\r\n" * 2_000, FILLER

    def flood(piece: bytes) -> None:
        for _ in range(6):
            send(ground.call(POST, reads=False), (piece for _ in range(4_000)), 8 << 20)

    at_once([lambda piece=piece: flood(piece) for piece in (field, short, line)])  # type: ignore[misc]


def http_trailer_floods(ground: Ground) -> None:
    """Trailers that never end."""
    for _ in range(6):
        caller = ground.call(CHUNKED + b"1\r\n{\r\n0\r\n", reads=False)
        send(caller, (b"x-long: " + FILLER + b"\r\n" for _ in range(4_000)), 8 << 20)


def http_huge_bodies(ground: Ground) -> None:
    """Bodies of a terabyte, and chunks without an end, of requests that wait until all of them is there."""

    def pour(first: bytes, piece: bytes) -> None:
        for _ in range(3):
            send(ground.call(first, reads=False), (piece for _ in range(4_000)))

    length = POST + b"content-length: 1000000000000\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(FILLER), FILLER)
    huge = CHUNKED + b"fffffff\r\n"
    at_once([lambda: pour(length, FILLER), lambda: pour(CHUNKED, chunk), lambda: pour(huge, FILLER)])


def http_tiny_chunks(ground: Ground) -> None:
    """Chunks of one byte, without an end."""
    at_once([lambda: send(ground.call(CHUNKED, reads=False), (b"1\r\n \r\n" * 2_000 for _ in range(400)))] * 4)


def http_chunk_extensions(ground: Ground) -> None:
    """Chunks with extensions, one of which never ends."""
    for extension in (b"1;a=b\r\n{\r\n", b"1;" + FILLER, b"1" + b" " * 16_000, b"0" * 16_000):
        for _ in range(20):
            send(ground.call(CHUNKED, reads=False), (extension for _ in range(400)), 4 << 20)


def http_pipelines(ground: Ground) -> None:
    """Requests without an end on a few connections, whose answers nobody reads."""
    requests = question() * 50
    at_once([lambda: send(ground.call(b"", reads=False), (requests for _ in range(20_000)))] * 4)


def http_malformed(ground: Ground) -> None:
    """Thousands of connections, each with something that is no request."""
    for number in range(2_000):
        first = (b"\0\0\0", b"GET\r\n\r\n", POST + b"content-length: x\r\n\r\n", b"A" * 60)[number % 4]
        ground.call(first, reads=False).close()


def http_endless_answers(ground: Ground) -> None:
    """A model server whose heads, documents, events, chunks and interim responses have no end."""

    def ask(kind: str) -> None:
        for _ in range(3):
            caller = ground.call(question(kind))
            if ground.mode == "enforce" and FILLER[:100] in received(caller):
                ground.leaks.append(f"of an answer with {kind} something went out unjudged")

    kinds = ("endless-event", "endless-document", "tiny-chunks", "endless-head", "interim")
    at_once([lambda kind=kind: ask(kind) for kind in kinds])  # type: ignore[misc]


ATTACKS = [
    http_answers_unread, http_slow_readers, http_half_open, http_header_floods, http_trailer_floods, http_huge_bodies,
    http_tiny_chunks, http_chunk_extensions, http_pipelines, http_malformed, http_endless_answers,
]  # fmt: skip
OPTIONS: dict[str, dict[str, object]] = {attack.__name__: {"http": True} for attack in ATTACKS}
