"""What is called: a relay that enforces, before a real gRPC server, compared with what that server was asked.

Guarded methods answer something that is to be blocked, so it may never reach a client; and the server may not be asked
for a guarded method more often than the relay has counted guarded calls.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from benchmarks.fuzz.outcomes import Failure
from benchmarks.harness import parts
from benchmarks.harness.parts import INFER, SIGNALS, STREAM_INFER, far_away, inference, running, streamed
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    RESERVED_BIT,
    Kind,
    call,
    frame,
    integer,
    literal,
    message,
    request_block,
    settings,
)
from benchmarks.harness.raw_peers import connect

SYNC = "/test.Model/Sync"  # asked after each case: once it is answered, the case has been read
LAST = (1 << 31) - 1  # its stream
WAITS = 0.5  # seconds for it, where a case has left the connection in disorder
LATE = 0.1  # seconds after which the server has mostly been asked whatever it will be of such a connection
LATEST = 5.0  # and always: on a busy machine, in the midst of a later case,
AGAIN = 5  # which is tried so often again by itself
FILLED = 1 << 16  # bytes
FAR = inference(far_away(1), slice(0, 1))
ASK = message(b"bad")


class ScriptCall(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every method, and takes note of the guarded ones."""

    def __init__(self) -> None:
        self.guarded = 0

    def service(self, details: Any) -> Any:
        if details.method == INFER:
            self.guarded += 1
            return grpc.unary_unary_rpc_method_handler(lambda request, context: FAR)
        if details.method == STREAM_INFER:
            self.guarded += 1
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: map(self._each, requests))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"other")

    @staticmethod
    def _each(request: bytes) -> bytes:
        return streamed(FAR)


class Called:
    """A client of the relay, new for each case, that sends a header block (`block`) or frames (`frames`)."""

    def __init__(self, bundle: Path) -> None:
        self._server_calls, self._stack = ScriptCall(), contextlib.ExitStack()
        server = grpc.server(futures.ThreadPoolExecutor(1))  # one after the other
        server.add_generic_rpc_handlers((self._server_calls,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        guarded = {"bundle": bundle, "signals": SIGNALS, "on_alarm": {"critical": "block", "warning": "block"}}
        config = parts.settings(port, bundle, mode="enforce", fail="closed", models={"digits": guarded}, drain="0s")
        self._relay = self._stack.enter_context(running(config))
        self._stack.callback(lambda: server.stop(0).wait())

    def block(self, case: bytes) -> None:
        """The case is the header block of a call."""
        case = case[:16_000]
        self._try(frame(Kind.HEADERS, END_HEADERS, 1, case) + frame(Kind.DATA, END_STREAM, 1, ASK), len(case) % 3 == 0)

    def frames(self, case: bytes) -> None:
        """The case is whole frames: what little lacks of the last one is filled with zeros, else it is left out."""
        at = last = 0
        while len(case) - at >= 9:
            last, at = at, at + 9 + int.from_bytes(case[at : at + 3], "big")
        missing = at - len(case)
        padded = case + bytes(missing) if 0 <= missing <= FILLED else case[: last if missing > 0 else at]
        self._try(padded, len(case) % 3 == 0)

    def _try(self, sent: bytes, at_once: bool) -> None:
        """Feed a case. One that seems to have asked for more may have met a call of the case before it, come late."""
        if not self._asks_uncounted(sent, at_once):
            return
        time.sleep(LATEST)
        if any(self._asks_uncounted(sent, at_once) for _ in range(AGAIN)):
            raise Failure("the server was asked for a guarded method, and the relay does not know it")

    def _asks_uncounted(self, sent: bytes, at_once: bool) -> bool:
        """Whether the server was asked for a guarded method more often than the relay counted meanwhile."""
        relay = self._relay.sidecar.relay
        called_before, counted = self._server_calls.guarded, relay.context.calls[1]
        peer = connect(self._relay.target, PREFACE + settings() + sent if at_once else None)
        if not at_once:
            peer.send(sent)
        peer.send(call(LAST, SYNC, b""))
        peer.until(lambda: peer.closed or peer.has_ended(LAST), WAITS)
        with contextlib.suppress(OSError):
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        if FAR in peer.data():
            raise Failure("an answer of a guarded method went out that is to be blocked")
        if not peer.has_ended(LAST):
            time.sleep(LATE)
        return self._server_calls.guarded - called_before > relay.context.calls[1] - counted

    def understood(self) -> None:
        """Check that an unmutated seed reaches the model server and is judged."""
        called_before = self._server_calls.guarded
        self.frames(call(1, INFER, b"bad"))
        if self._server_calls.guarded != called_before + 1:
            raise SystemExit("a seed is not called: the fuzzer would feed nothing but noise")

    def close(self) -> None:
        """End the relay and the server."""
        self._stack.close()


def blocks() -> list[bytes]:
    """Header blocks of calls of a guarded method, in every spelling."""
    path, other = INFER.encode(), b"/test.Model/Other"
    ahead = literal(":method", "POST") + literal(":scheme", "http")
    after = literal(":authority", "x") + literal("te", "trailers") + literal("content-type", "application/grpc")
    huffman = _huffman(path)
    spellings = [
        literal(":path", path),
        b"\x04" + integer(len(path), 7) + path,
        b"\x15" + integer(len(path), 7) + path,
        b"\x44" + integer(len(path), 7) + path,
        b"\x04" + integer(len(huffman), 7, 0x80) + huffman,
        b"\x00" + integer(len(_huffman(b":path")), 7, 0x80) + _huffman(b":path") + integer(len(path), 7) + path,
        literal(":path", path) + literal(":path", other),
        literal(":path", other) + literal(":path", path),
        b"\x84" + literal(":path", path),
        literal(":path", path) + literal("x-session", "s") + b"\x20",
    ]
    return [request_block(STREAM_INFER), *(ahead + spelling + after for spelling in spellings),
            ahead + after + literal(":path", path)]  # fmt: skip


def conversations() -> list[bytes]:
    """Frames of calls of a guarded method, beside frames of other kinds."""
    head = request_block(INFER)
    reserved = RESERVED_BIT | 1
    return [
        call(1, INFER, b"bad") + call(3, STREAM_INFER, b"bad"),
        frame(Kind.HEADERS, END_HEADERS, reserved, head) + frame(Kind.DATA, END_STREAM, reserved, ASK),
        frame(Kind.HEADERS, END_HEADERS, reserved, head) + frame(Kind.DATA, 0, 1, ASK)
        + frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, literal("x", "y")),
        frame(Kind.HEADERS, 0, 1, head[:9]) + frame(Kind.CONTINUATION, END_HEADERS, 1, head[9:])
        + frame(Kind.DATA, END_STREAM, 1, ASK),
        frame(Kind.HEADERS, END_HEADERS | PADDED, 1, b"\3" + head + bytes(3)) + frame(Kind.DATA, END_STREAM, 1, ASK),
        frame(Kind.PRIORITY, 0, 1, bytes(5)) + call(5, INFER, b"bad") + frame(Kind.RST_STREAM, 0, 5, bytes(4)),
        frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, request_block("/test.Model/Other")) + call(1, INFER, b"bad"),
    ]  # fmt: skip


def _huffman(content: bytes) -> bytes:
    return bytes(HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(content))
