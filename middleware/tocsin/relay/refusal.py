"""What the relay answers itself: a status where the upstream cannot answer, where it must not, and in its place."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

from tocsin.judgement.policy import DETAILS_KEY, Replacement
from tocsin.relay import frames
from tocsin.relay.headers import block
from tocsin.verdict import METADATA_KEY, Verdict

UNAVAILABLE = "14"
RESOURCE_EXHAUSTED = "8"
PERMISSION_DENIED = "7"
UNESCAPED = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # what a status message need not percent-encode


def unavailable(stream: int, reason: str, *, answered: bool) -> bytes:
    """Trailers with UNAVAILABLE; a whole response where none was begun."""
    return refused(stream, UNAVAILABLE, reason, answered=answered)


def refused(stream: int, status: str, reason: str, *, answered: bool = False) -> bytes:
    """Trailers with a status and the reason; a whole response where none was begun.

    The message is percent-encoded as gRPC asks: everything but printable ASCII, and the percent sign.
    """
    fields = [("grpc-status", status), ("grpc-message", quote(f"tocsin: {reason}", safe=UNESCAPED))]
    return _trailers(stream, fields, answered=answered)


def replaced(stream: int, instead: Replacement, verdict: Verdict | None, *, answered: bool) -> bytes:
    """The trailers of what took a response's place: its status with details, and the verdict."""
    fields = [("grpc-status", str(instead.status.value[0]))]
    if instead.message:
        fields.append(("grpc-message", quote(instead.message, safe=UNESCAPED)))
    if instead.details:
        fields.append((DETAILS_KEY, b64encode(instead.details).decode().rstrip("=")))
    if verdict is not None:
        fields.append((METADATA_KEY, verdict.to_metadata()))
    return _trailers(stream, fields, answered=answered)


def _trailers(stream: int, fields: list[tuple[str, str]], *, answered: bool) -> bytes:
    opening = [] if answered else [(":status", "200"), ("content-type", "application/grpc")]
    return frames.header_frames(stream, block([*opening, *fields]), end_stream=True)
