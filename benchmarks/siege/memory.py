"""Attacks on memory: what a peer sends, or leaves unread, that the relay might keep."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import grpc

from benchmarks.harness.parts import INFER
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    END_STREAM,
    GRPC,
    PADDED,
    PREFACE,
    Kind,
    Setting,
    block,
    call,
    frame,
    message,
    request_block,
    settings,
    window_update,
)
from benchmarks.harness.raw_peers import RawPeer
from benchmarks.siege.ground import Ground
from benchmarks.siege.messages import OK, SAFE_IMAGE, WIDE, request

LONGEST = 8.0  # seconds that an attack goes on
UP, DOWN = "/test.Model/Up", "/test.Model/Down"
PIECE = bytes(16_000)
NO_WINDOW = PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 0))


def pour(peer: RawPeer, pieces: Iterable[bytes], most: int = 64 << 20) -> int:
    """Send until the other end stops reading, closes, or `most` bytes are sent; how many were."""
    ends, sent = time.monotonic() + LONGEST, 0
    peer.socket.settimeout(1.0)
    for piece in pieces:
        if sent >= most or peer.closed or time.monotonic() > ends or not peer.send(piece):
            break
        sent += len(piece)
    return sent


def at_once(attacks: list[Callable[[], object]]) -> None:
    """Run several attacks at the same time, each in a thread."""
    threads = [threading.Thread(target=attack, daemon=True) for attack in attacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST + 2)


def windows_ignored(ground: Ground) -> None:
    """Four callers send DATA regardless of the windows that they were given."""

    def ignore(path: str) -> None:
        peer = ground.open()
        peer.send(frame(Kind.HEADERS, END_HEADERS, 1, request_block(path, ("sleep", "30"))))
        peer.send(frame(Kind.DATA, 0, 1, message(bytes(3_900_000))[:5]))
        pour(peer, (frame(Kind.DATA, 0, 1, PIECE) * 16 for _ in range(10_000)))

    at_once([partial(ignore, path) for path in (UP, INFER, UP, INFER)])


def padded_data_unfinished(ground: Ground) -> None:
    """Twelve padded DATA frames of 16 MB that lack their last bytes, which then come one by one."""
    size = (1 << 24) - 1
    head = frame(Kind.DATA, PADDED, 1, bytes(size))[:9]
    peers = [ground.open() for _ in range(12)]
    for peer in peers:
        pour(peer, (head + bytes(1 << 20) for _ in range(15)))
    for _ in range(60):
        peers[0].send(b"z")
        time.sleep(0.01)


def huge_data(ground: Ground) -> None:
    """DATA frames of 16 MB, plain and padded, of calls that are open."""
    size = (1 << 24) - 1
    for flags in (0, PADDED):
        for _ in range(4):
            peer = ground.open()
            peer.send(frame(Kind.HEADERS, END_HEADERS, 1, request_block(UP, ("sleep", "30"))))
            pour(peer, [frame(Kind.DATA, flags, 1, bytes(size))])


def slow_readers(ground: Ground) -> None:
    """Thirty callers with five answers of 2 MB each, which they have no window for."""
    for _ in range(30):
        peer = ground.open(first=NO_WINDOW)
        for stream in range(1, 11, 2):
            block = request_block(DOWN, ("count", "40"))
            peer.send(frame(Kind.HEADERS, END_HEADERS, stream, block))
            peer.send(*(frame(Kind.DATA, 0, stream, part) for part in cut(message(bytes(50_000)))))
            peer.send(frame(Kind.DATA, END_STREAM, stream))


def cut(content: bytes) -> list[bytes]:
    """Pieces that fit into frames."""
    return [content[at : at + 16_000] for at in range(0, len(content), 16_000)]


def held_answers_unread(ground: Ground) -> None:
    """Guarded calls with answers of 140 KB, whose callers never read from their sockets."""
    wide = PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 1 << 30)) + window_update(0, 1 << 30)
    for _ in range(20):
        ground.open(first=wide, reads=False).send(*(call(stream, INFER, WIDE) for stream in range(1, 41, 2)))


def refusals_unread(ground: Ground) -> None:
    """10 MB of HEADERS that the relay refuses itself, to a caller that never reads."""
    unreadable = request_block(INFER) + b"\x80"
    for _ in range(2):
        peer = ground.open(reads=False)
        peer.send(frame(Kind.SETTINGS, 1, 0))
        flags, streams = END_HEADERS | END_STREAM, range(1, 80_001, 2)
        pour(peer, (frame(Kind.HEADERS, flags, stream, unreadable) for stream in streams), 10 << 20)


def pings_unread(ground: Ground) -> None:
    """10 MB of PINGs from a caller that never reads."""
    pour(ground.open(reads=False), (frame(Kind.PING, 0, 0, bytes(8)) * 100 for _ in range(6_000)), 10 << 20)


def layouts(ground: Ground) -> None:
    """Requests of 1 MB whose tensors differ in a parameter, one after the other."""
    with grpc.insecure_channel(ground.attacked) as channel:
        ends = time.monotonic() + LONGEST
        for number in range(150):
            body = request("ok", SAFE_IMAGE, f"{number}" + "n" * 1_000_000)
            with suppress(grpc.RpcError):
                channel.unary_unary(INFER)(body, timeout=5)
            if time.monotonic() > ends:
                return


def session_names(ground: Ground) -> None:
    """6,000 sessions with names of 7 KB."""
    peer = ground.open()
    pour(peer, (
        frame(Kind.HEADERS, END_HEADERS, stream, request_block(INFER, ("x-session", f"{stream}" + "s" * 7_000)))
        + frame(Kind.DATA, END_STREAM, stream, message(OK)) for stream in range(1, 12_001, 2)
    ))  # fmt: skip


def endless_header_blocks(ground: Ground) -> None:
    """Header blocks that never end, in large frames and in empty ones."""

    def endless(piece: bytes) -> None:
        peer = ground.open()
        peer.send(frame(Kind.HEADERS, 0, 1, request_block(INFER)))
        pour(peer, (frame(Kind.CONTINUATION, 0, 1, piece) for _ in range(200_000)), 16 << 20)

    at_once([lambda size=size: endless(b"\x00\x01x\x01y" * size) for size in (0, 1, 3_000, 3_000)])  # type: ignore[misc]


def gzip_bombs(ground: Ground) -> None:
    """Answers of 250 KB that unpack to 256 MB, in one member and in many."""
    member = gzip.compress(bytes(256 << 20), 9)
    many = gzip.compress(bytes(1 << 20), 9) * 256
    packed = [b"\1" + len(content).to_bytes(4, "big") + content for content in (member, many)]
    answer_with(ground, packed, ("grpc-encoding", "gzip"))


def endless_numbers(ground: Ground) -> None:
    """Answers of 3 MB that are one number, which does not end, as it is and inside of a field."""
    number = b"\xff" * 3_000_000
    answer_with(ground, [message(number), message(b"\x0a" + number)])


def answer_with(ground: Ground, answers: list[bytes], *fields: tuple[str, str]) -> None:
    """A model server answers four guarded calls with these in turn, as gRPC messages with their prefixes."""
    head = block((":status", "200"), ("content-type", GRPC), *fields)

    def answer(peer: RawPeer, stream: int) -> None:
        peer.send(frame(Kind.HEADERS, END_HEADERS, stream, head))
        peer.send(*(frame(Kind.DATA, 0, stream, part) for part in cut(answers[stream // 2 % len(answers)])))
        peer.send(frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream, block(("grpc-status", "0"))))

    ground.evil.script = answer
    wide = PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 1 << 24))
    peer = ground.open(ground.to_evil, wide)
    peer.send(window_update(0, 1 << 26))
    for stream in (1, 3, 5, 7):
        peer.send(call(stream, INFER, OK))
    peer.until(lambda: peer.closed or all(peer.has_ended(stream) for stream in (1, 3, 5, 7)), LONGEST)
    if ground.mode == "enforce" and peer.data():
        ground.leaks.append("an answer that nobody can read went out unjudged")


def upstream_floods(ground: Ground) -> None:
    """An upstream that sends regardless of windows, to callers that read nothing."""
    head = block((":status", "200"), ("content-type", GRPC))

    def answer(peer: RawPeer, stream: int) -> None:
        peer.send(
            frame(Kind.HEADERS, END_HEADERS, stream, head), frame(Kind.DATA, 0, stream, message(bytes(30 << 20))[:5])
        )
        threading.Thread(
            target=pour, args=(peer, (frame(Kind.DATA, 0, stream, PIECE) * 16 for _ in range(1_000))), daemon=True
        ).start()

    ground.evil.script = answer
    for path in (INFER, DOWN) * 4:
        peer = ground.open(ground.to_evil, NO_WINDOW, reads=False)
        peer.send(frame(Kind.SETTINGS, 1, 0), call(1, path, OK))
    time.sleep(4)


def idle_calls(ground: Ground) -> None:
    """Eight callers with ten thousand calls each, which nobody answers."""
    ground.evil.script = lambda peer, stream: None

    def begin(path: str) -> None:
        head = request_block(path)
        pour(
            ground.open(ground.to_evil),
            (frame(Kind.HEADERS, END_HEADERS, stream, head) for stream in range(1, 20_001, 2)),
        )

    at_once([partial(begin, path) for path in (INFER, DOWN) * 4])


ATTACKS = [
    windows_ignored, padded_data_unfinished, huge_data, slow_readers, held_answers_unread, refusals_unread,
    pings_unread, layouts, session_names, endless_header_blocks, gzip_bombs, endless_numbers,
    upstream_floods, idle_calls,
]  # fmt: skip
OPTIONS: dict[str, dict[str, object]] = {
    "layouts": {"signals": {"embedding": "request.inputs.image"}},
    "session_names": {"sessions": True},
}
