"""What clients and servers say when nothing is wrong."""

from __future__ import annotations

import gzip
import struct

from benchmarks.harness.parts import INFER, STREAM_INFER, inference, safe_traffic, streamed
from tocsin.http2.frames import SETTINGS, frame
from tocsin.http2.header_literals import block

SAFE = safe_traffic(4)
REQUEST = block([(":method", "POST"), (":path", INFER), ("content-type", "application/grpc"), ("x-session", "s")])
STREAM = block([(":method", "POST"), (":path", STREAM_INFER), ("content-type", "application/grpc")])
RESPONSE = block([(":status", "200"), ("content-type", "application/grpc"), ("content-length", "12")])
ZIPPED = block([(":status", "200"), ("content-type", "application/grpc"), ("grpc-encoding", "gzip")])
TRAILERS = block([("grpc-status", "0"), ("grpc-message", "x" * 20)])
INFERENCES = [inference(SAFE, slice(0, 1)), inference(SAFE, slice(0, 3)), inference(SAFE, slice(0, 2), raw=False)]


def conversations() -> tuple[list[bytes], list[bytes]]:
    """Complete conversations of clients and of servers, as seeds."""
    body = b"\0" + struct.pack(">L", len(INFERENCES[0])) + INFERENCES[0]
    part = streamed(INFERENCES[0])
    stream = b"\0" + struct.pack(">L", len(part)) + part
    packed = gzip.compress(INFERENCES[0], mtime=0)
    zipped = b"\1" + struct.pack(">L", len(packed)) + packed
    hello = frame(SETTINGS, 0, 0, struct.pack(">HLHL", 4, 1 << 20, 5, 32_768)) + frame(SETTINGS, 1, 0)
    asks, says = [], []
    for path in (REQUEST, STREAM):
        calls = [
            frame(1, 4, stream, path)
            + frame(0, 0, stream, b"\0\0\0\0\3ask")
            + frame(0, 1, stream)
            + frame(8, 0, stream, b"\0\0\1\0")
            for stream in (1, 3, 5)
        ]
        asks.append(hello + b"".join(calls) + frame(8, 0, 0, struct.pack(">L", 1 << 20)) + frame(3, 0, 5, b"\0\0\0\10"))
    for content in (body, stream * 3, zipped, body[:50]):
        opening = ZIPPED if content is zipped else RESPONSE
        answers = [
            frame(1, 4, stream, opening) + frame(0, 0, stream, content) + frame(1, 5, stream, TRAILERS)
            for stream in (1, 3)
        ]
        says.append(hello + b"".join(answers) + frame(6, 0, 0, b"pingpong") + frame(3, 0, 5, b"\0\0\0\0"))
    return asks, says
