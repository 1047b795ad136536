"""Claims of RFC 9113 and RFC 7541 about what an upstream sends: each case names its section.

The caller is a real gRPC client. What it sees is what the RFC asks for, or what it sees without the relay; it never
waits for its deadline where it would not without the relay, and in `closed` nothing unjudged reaches it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from benchmarks.harness.parts import INFER, SIGNALS, Running, running
from benchmarks.harness.parts import settings as configured
from benchmarks.harness.raw_http2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    GRPC,
    MAX_WINDOW,
    PADDED,
    RESERVED_BIT,
    ErrorCode,
    Kind,
    Setting,
    block,
    call,
    frame,
    goaway,
    message,
    reset,
    settings,
    window_update,
)
from benchmarks.harness.raw_peers import RawPeer, ScriptedUpstream, connect, scripted_upstream
from tests.middleware.relay.conformance.harness import FAR, MODES, SAFE, gives_everything_back

import tocsin

PROTOCOL, SIZE, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR
STREAM = 1
HEAD, TAIL = block((":status", "200"), ("content-type", GRPC)), block(("grpc-status", "0"))


def headers(content: bytes, flags: int = END_HEADERS) -> bytes:
    return frame(Kind.HEADERS, flags, STREAM, content)


def data(content: bytes) -> bytes:
    return frame(Kind.DATA, 0, STREAM, content)


OPENING = headers(HEAD)
ENDING = frame(Kind.HEADERS, END_HEADERS | END_STREAM, STREAM, TAIL)
GOOD, BAD = data(message(SAFE)), data(message(FAR))
REST = BAD + ENDING
FAILS, SERVED = "fails", "OK"
R = RESERVED_BIT | STREAM


class Answer(NamedTuple):
    """What an upstream sends once it is asked on stream 1, and what is to come of it: the call `fails`, or is `OK`.

    `codes`: in enforce, the relay itself ends the stream or the connection, by one of these. `deadline`: the caller's,
    in seconds; short where callers of gRPC wait for it without a relay, too.
    """

    section: str
    name: str
    frames: bytes
    expected: str = FAILS
    codes: tuple[int, ...] = ()
    deadline: float = 60.0

    def __str__(self) -> str:
        return f"{self.section} {self.name}"


FORMAT = [
    Answer("4.1", "everything as it should be", OPENING + GOOD + ENDING, SERVED),
    Answer("4.1", "frames of unknown type",
           frame(0x16, 0xFF, 0, b"x") + OPENING + frame(0x99, 1, STREAM) + GOOD + ENDING, SERVED),
    Answer("4.1", "reserved bits of a safe answer", frame(Kind.HEADERS, END_HEADERS, R, HEAD)
           + frame(Kind.DATA, 0, R, message(SAFE)) + frame(Kind.HEADERS, END_HEADERS | END_STREAM, R, TAIL), SERVED),
    Answer("4.1", "reserved bits of an answer that is to be blocked", frame(Kind.HEADERS, END_HEADERS, R, HEAD)
           + frame(Kind.DATA, 0, R, message(FAR)) + ENDING, SERVED),
    Answer("4.1", "a reserved bit of DATA alone", OPENING + frame(Kind.DATA, 0, R, message(FAR)) + ENDING, SERVED),
    Answer("4.2", "DATA over SETTINGS_MAX_FRAME_SIZE", OPENING + data(message(bytes(1 << 23))) + ENDING,
           codes=(SIZE,)),
    Answer("4.2", "HEADERS over SETTINGS_MAX_FRAME_SIZE",
           headers(HEAD + block(*[("x-many", "v" * 1_000)] * 600)), codes=(SIZE,)),
    Answer("4.3", "another frame inside of a header block", frame(Kind.HEADERS, 0, STREAM, HEAD[:5]) + BAD
           + frame(Kind.CONTINUATION, END_HEADERS, STREAM, HEAD[5:]) + ENDING, codes=(PROTOCOL,)),
    Answer("5.1", "DATA on an idle stream", frame(Kind.DATA, 0, 77, message(FAR)) + OPENING + REST),
    Answer("5.1", "an answer on an idle stream", frame(Kind.HEADERS, END_HEADERS, 77, HEAD) + OPENING + REST),
    Answer("5.1", "DATA after the end", OPENING + GOOD + ENDING + BAD, SERVED),
    Answer("5.1", "HEADERS after the end", OPENING + GOOD + ENDING + OPENING + REST, SERVED),
    Answer("5.1", "an answer after RST_STREAM", reset(STREAM) + OPENING + REST),
    Answer("5.1", "RST_STREAM in the middle of a message", OPENING + data(message(FAR)[:40]) + reset(STREAM)),
    Answer("5.1", "RST_STREAM behind a whole message", OPENING + BAD + reset(STREAM, ErrorCode.INTERNAL_ERROR)),
]  # fmt: skip

FRAMES = [
    Answer("6.1", "DATA on stream 0", OPENING + frame(Kind.DATA, 0, 0, message(FAR)) + ENDING),
    Answer("6.1", "DATA before HEADERS", BAD + OPENING + ENDING),
    Answer("6.1", "padding as long as the payload",
           OPENING + frame(Kind.DATA, PADDED, STREAM, b"\x05" + b"four") + ENDING, codes=(PROTOCOL,)),
    Answer("6.1", "padded DATA without a pad length",
           OPENING + frame(Kind.DATA, PADDED, STREAM) + ENDING, codes=(PROTOCOL, SIZE)),
    Answer("6.2", "HEADERS on stream 0", frame(Kind.HEADERS, END_HEADERS, 0, HEAD) + OPENING + REST),
    Answer("6.2", "padding longer than the payload",
           frame(Kind.HEADERS, END_HEADERS | PADDED, STREAM, b"\xff" + HEAD), codes=(PROTOCOL,)),
    Answer("6.4", "RST_STREAM of three bytes", OPENING + frame(Kind.RST_STREAM, 0, STREAM, bytes(3))),
    Answer("6.4", "RST_STREAM on stream 0", frame(Kind.RST_STREAM, 0, 0, bytes(4)) + OPENING + REST),
    Answer("6.5", "half a setting", frame(Kind.SETTINGS, 0, 0, bytes(5)) + OPENING + REST, codes=(SIZE,)),
    Answer("6.5", "SETTINGS on a stream", frame(Kind.SETTINGS, 0, STREAM) + OPENING + REST),
    Answer("6.5", "an acknowledgement with settings", frame(Kind.SETTINGS, ACK, 0, bytes(6)) + OPENING + REST),
    Answer("6.5.2", "INITIAL_WINDOW_SIZE over its limit",
           settings((Setting.INITIAL_WINDOW_SIZE, 1 << 31)) + OPENING + REST, codes=(FLOW,)),
    Answer("6.5.2", "MAX_FRAME_SIZE under its limit", settings((Setting.MAX_FRAME_SIZE, 1)) + OPENING + REST),
    Answer("6.5.2", "unknown settings", settings((0x77, 1), (0xFE03, 1)) + OPENING + GOOD + ENDING, SERVED),
    Answer("6.6", "PUSH_PROMISE", frame(Kind.PUSH_PROMISE, END_HEADERS, STREAM, b"\0\0\0\2" + HEAD) + OPENING + REST),
    Answer("6.7", "PING of seven bytes", frame(Kind.PING, 0, 0, bytes(7)) + OPENING + REST),
    Answer("6.7", "PING on a stream", frame(Kind.PING, 0, STREAM, bytes(8)) + OPENING + REST),
    Answer("6.8", "GOAWAY and the answer", goaway(STREAM) + OPENING + GOOD + ENDING, SERVED),
    Answer("6.8", "GOAWAY that leaves the call out", goaway(0) + OPENING + REST),
    Answer("6.8", "GOAWAY of four bytes", frame(Kind.GOAWAY, 0, 0, bytes(4)) + OPENING + REST),
    Answer("6.9", "WINDOW_UPDATE of 0 on the connection", window_update(0, 0) + OPENING + REST, codes=(PROTOCOL,)),
    Answer("6.9", "WINDOW_UPDATE of 0 on the stream", OPENING + window_update(STREAM, 0) + REST, codes=(PROTOCOL,)),
    Answer("6.9", "WINDOW_UPDATE of five bytes",
           frame(Kind.WINDOW_UPDATE, 0, 0, bytes(5)) + OPENING + REST, codes=(SIZE,)),
    Answer("6.9.1", "the connection's window over its limit",
           window_update(0, MAX_WINDOW) * 2 + OPENING + REST, codes=(FLOW,)),
    Answer("6.9.1", "the stream's window over its limit",
           OPENING + window_update(STREAM, MAX_WINDOW) * 2 + REST, codes=(FLOW,)),
    Answer("6.10", "header blocks in many frames", frame(Kind.HEADERS, 0, STREAM, HEAD[:3])
           + frame(Kind.CONTINUATION, 0, STREAM) + frame(Kind.CONTINUATION, END_HEADERS, STREAM, HEAD[3:]) + GOOD
           + frame(Kind.HEADERS, END_STREAM, STREAM) + frame(Kind.CONTINUATION, END_HEADERS, STREAM, TAIL), SERVED),
    Answer("6.10", "CONTINUATION without HEADERS", frame(Kind.CONTINUATION, END_HEADERS, STREAM, HEAD) + REST),
    Answer("6.10", "CONTINUATION of another stream", frame(Kind.HEADERS, 0, STREAM, HEAD[:5])
           + frame(Kind.CONTINUATION, END_HEADERS, 3, HEAD[5:]) + REST, codes=(PROTOCOL,)),
]  # fmt: skip

HEADERS = [
    Answer("8.1", "two header blocks before the message", OPENING + OPENING + REST),
    Answer("8.1", "an informational answer first",
           headers(block((":status", "103"))) + OPENING + GOOD + ENDING, SERVED),
    Answer("8.1", "DATA with END_STREAM and no trailers", OPENING + frame(Kind.DATA, END_STREAM, STREAM, message(FAR))),
    Answer("8.1", "trailers alone", frame(Kind.HEADERS, END_HEADERS | END_STREAM, STREAM, HEAD + TAIL)),
    Answer("8.1", "a truncated message before the trailers", OPENING + data(message(FAR)[:60]) + ENDING),
    Answer("8.1", "two messages where one is meant", OPENING + GOOD + BAD + ENDING, deadline=10.0),
    Answer("8.3.2", "no status", headers(block(("content-type", GRPC))) + REST),
    Answer("gRPC", "grpc-status twice",
           OPENING + BAD + frame(Kind.HEADERS, 5, STREAM, TAIL + block(("grpc-status", "3")))),
    Answer("7541 2.3.3", "an index beyond the tables", headers(HEAD + b"\xff\xa0\x1f") + REST),
    Answer("7541 2.3.3", "an entry of a table that does not exist", headers(HEAD + b"\xbe") + REST),
    Answer("7541 5.1", "an integer of ten bytes", headers(HEAD + b"\xff" * 10 + b"\x01") + REST),
    Answer("7541 5.2", "a value longer than the block", headers(HEAD + b"\0\1x\x30abc") + REST),
    Answer("7541 5.2", "EOS in a Huffman value", headers(HEAD + b"\0\1x\x84\xff\xff\xff\xff") + REST),
    Answer("7541 6.1", "index 0", headers(HEAD + b"\x80") + REST),
    Answer("7541 6.3", "a size update above the limit", headers(b"\x3f\xe1\xff\x03" + HEAD) + REST),
    Answer("7541 4.2", "a size update in trailers' middle",
           OPENING + BAD + frame(Kind.HEADERS, 5, STREAM, TAIL + b"\x20")),
]  # fmt: skip


class Scene(NamedTuple):
    upstream: ScriptedUpstream
    relays: dict[str, Running]
    by_itself: dict[str, str]


@pytest.fixture(autouse=True)
def upstream_connections_are_closed(scene: Scene) -> Iterator[None]:
    """A case that fails leaves nothing behind for the next."""
    yield
    for peer in scene.upstream.peers:
        peer.close()


@pytest.fixture(scope="module")
def scene(bundle: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        upstream = stack.enter_context(scripted_upstream())
        relays = {}
        for mode in MODES:
            alarms = {"critical": "block", "warning": "block"} if mode == "enforce" else {}
            guarded = {"bundle": bundle, "signals": SIGNALS, "on_alarm": alarms}
            fail = "closed" if mode == "enforce" else "open"
            config = configured(upstream.port, bundle, mode=mode, fail=fail, drain="1s", models={"digits": guarded})
            relays[mode] = stack.enter_context(running(config))
        yield Scene(upstream, relays, {})


def status_of(target: str, mode: str = "", deadline: float = 60.0) -> str:
    """A caller's status; HANGS where it had to wait for its deadline. Asserts that what went out was judged."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 1 << 24),
               ("grpc.enable_retries", 0)]  # fmt: skip
    with grpc.insecure_channel(target, options=options) as channel:
        try:
            response, call = channel.unary_unary(INFER).with_call(b"ok", timeout=deadline)
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined]
            return "HANGS" if code == grpc.StatusCode.DEADLINE_EXCEEDED else str(code.name)
        if mode in ("annotate", "enforce") and response:
            verdict = tocsin.verdict(call)
            assert verdict is not None, "an answer came without a verdict"
            assert mode != "enforce" or (verdict.unscored is None and response != FAR), "an answer came unjudged"
        return SERVED


def sending(content: bytes) -> Callable[[RawPeer, int], None]:
    def script(peer: RawPeer, stream: int) -> None:
        threading.Thread(target=peer.send, args=(content,), daemon=True).start()

    return script


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answer", [*FORMAT, *FRAMES, *HEADERS], ids=str)
def test_answers(scene: Scene, answer: Answer, mode: str) -> None:
    upstream, relay = scene.upstream, scene.relays[mode]
    upstream.script = sending(answer.frames)
    connections = len(upstream.peers)
    status = status_of(relay.target, mode, answer.deadline)
    assert len(upstream.peers) == connections + 1
    behind = upstream.peers[-1]
    as_asked = status == SERVED if answer.expected == SERVED else status not in (SERVED, "HANGS")
    if not as_asked:
        if str(answer) not in scene.by_itself:
            scene.by_itself[str(answer)] = status_of(f"127.0.0.1:{upstream.port}", deadline=answer.deadline)
        blocked = mode == "enforce" and status in ("PERMISSION_DENIED", "UNAVAILABLE")  # judged, and not let go
        assert blocked or status == scene.by_itself[str(answer)], (
            f"{status}, without the relay {scene.by_itself[str(answer)]}"
        )
    if answer.codes and mode == "enforce":
        assert behind.until(lambda: behind.closed or codes_told(behind)), "the upstream is not told"
        codes = codes_told(behind)
        assert behind.closed or set(codes) & {*answer.codes, ErrorCode.CANCEL}, codes
    behind.close()
    upstream.script = sending(OPENING + GOOD + ENDING)
    assert status_of(relay.target, mode) == SERVED, "the next caller is not served"
    assert gives_everything_back(relay)


def codes_told(peer: RawPeer) -> list[int]:
    """The error codes that an upstream was told."""
    codes = [int.from_bytes(reset.payload[-4:], "big") for reset in peer.of(Kind.RST_STREAM)]
    return codes + [int.from_bytes(goaway.payload[4:8], "big") for goaway in peer.of(Kind.GOAWAY)]


@pytest.mark.parametrize("mode", MODES)
def test_a_caller_never_sees_a_last_stream_that_grows(scene: Scene, mode: str) -> None:
    """6.8: whatever the upstream says, and when the relay adds a GOAWAY of its own."""
    scene.upstream.script = sending(goaway(1) + goaway(5) + goaway(MAX_WINDOW))
    peer = connect(scene.relays[mode].target)
    peer.send(call(1, INFER, b"ok"), call(3, INFER, b"ok"))
    assert peer.until(lambda: len(peer.of(Kind.GOAWAY)) >= 1)
    scene.upstream.peers[-1].close()
    assert peer.until(lambda: peer.closed)
    last_streams = [int.from_bytes(goaway.payload[:4], "big") for goaway in peer.of(Kind.GOAWAY)]
    assert last_streams == sorted(last_streams, reverse=True), last_streams
