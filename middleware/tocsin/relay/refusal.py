"""What the relay answers when the upstream cannot: UNAVAILABLE, with the reason."""

from __future__ import annotations

from urllib.parse import quote

from tocsin.relay import frames
from tocsin.relay.headers import block

UNAVAILABLE = "14"


def unavailable(stream: int, reason: str, *, answered: bool) -> bytes:
    """Trailers with UNAVAILABLE; a whole response where none was begun.

    The message is percent-encoded as gRPC asks: everything but printable ASCII, and the percent sign.
    """
    message = quote(f"tocsin: {reason}", safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    fields = [("grpc-status", UNAVAILABLE), ("grpc-message", message)]
    if not answered:
        fields = [(":status", "200"), ("content-type", "application/grpc"), *fields]
    return frames.header_frames(stream, block(fields), end_stream=True)
