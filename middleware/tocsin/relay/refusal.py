"""What the relay answers when the upstream cannot: UNAVAILABLE, with the reason."""

from __future__ import annotations

from urllib.parse import quote

from tocsin.relay import frames
from tocsin.relay.headers import block

UNAVAILABLE = "14"
RESOURCE_EXHAUSTED = "8"
UNESCAPED = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # what a status message need not percent-encode


def unavailable(stream: int, reason: str, *, answered: bool) -> bytes:
    """Trailers with UNAVAILABLE; a whole response where none was begun."""
    return refused(stream, UNAVAILABLE, reason, answered=answered)


def refused(stream: int, status: str, reason: str, *, answered: bool = False) -> bytes:
    """Trailers with a status and the reason; a whole response where none was begun.

    The message is percent-encoded as gRPC asks: everything but printable ASCII, and the percent sign.
    """
    fields = [("grpc-status", status), ("grpc-message", quote(f"tocsin: {reason}", safe=UNESCAPED))]
    if not answered:
        fields = [(":status", "200"), ("content-type", "application/grpc"), *fields]
    return frames.header_frames(stream, block(fields), end_stream=True)
