"""What the relay answers itself: a status where the upstream cannot answer, where it must not, and in its place."""

from __future__ import annotations

from base64 import b64encode
from typing import Final
from urllib.parse import quote

from tocsin.http2 import frames
from tocsin.http2.header_literals import block
from tocsin.judgement.policy import DETAILS_KEY, Replacement
from tocsin.relay.verdict_fields import split_verdicts, verdict_field
from tocsin.verdict import Verdict

UNAVAILABLE: Final = "14"
RESOURCE_EXHAUSTED: Final = "8"
PERMISSION_DENIED: Final = "7"
_OPENING: Final = [(":status", "200"), ("content-type", "application/grpc")]
UNESCAPED: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # what a status message need not percent-encode


def unavailable_trailers(stream: int, reason: str, *, headers_sent: bool) -> bytes:
    """Trailers with UNAVAILABLE; a whole response where none was begun."""
    return refused_trailers(stream, UNAVAILABLE, reason, headers_sent=headers_sent)


def refused_trailers(stream: int, status: str, reason: str, *, headers_sent: bool = False) -> bytes:
    """Trailers with a status and the reason; a whole response where none was begun.

    The message is percent-encoded as gRPC asks: everything but printable ASCII, and the percent sign.
    """
    fields = [("grpc-status", status), ("grpc-message", quote(f"tocsin: {reason}", safe=UNESCAPED))]
    return _trailers(stream, fields, headers_sent=headers_sent)


def replacement_trailers(
    stream: int, instead: Replacement, verdict: Verdict | None, *, headers_sent: bool, limit: int
) -> tuple[bytes, str]:
    """The trailers of what took a response's place: its status with details, and the verdict, as large as a header list
    of `limit` bytes allows; and how the verdict was shortened for that (see `verdict_field`).
    """
    fields = [("grpc-status", str(instead.status.value))]
    if instead.message:
        fields.append(("grpc-message", quote(instead.message, safe=UNESCAPED)))
    if instead.details:
        fields.append((DETAILS_KEY, b64encode(instead.details).decode().rstrip("=")))
    content = block(fields if headers_sent else [*_OPENING, *fields])
    shortening = ""
    if verdict is not None:
        field, shortening = verdict_field(verdict, split_verdicts(content).size, limit)
        content = b"".join((content, *field))
    return frames.header_frames(stream, content, end_stream=True), shortening


def _trailers(stream: int, fields: list[tuple[str, str]], *, headers_sent: bool) -> bytes:
    """Frames that end a stream with these fields, behind the opening fields of a response where none was begun."""
    return frames.header_frames(stream, block(fields if headers_sent else [*_OPENING, *fields]), end_stream=True)
