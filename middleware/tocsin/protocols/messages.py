"""Decompresses gRPC messages (`grpc-encoding`), within a bound."""

from __future__ import annotations

import zlib

from tocsin.unscored import Unscored

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def decompress(content: bytes, encoding: str, limit: int) -> bytes:
    """The message under `gzip` or `deflate`, at most `limit` bytes of it.

    A message is one member, and nothing behind it: of a second member or other bytes there, some implementations of
    gRPC read on (Go, Java, Node), others refuse the message (C-core), so no reading here would be everybody's.

    Raises Unscored: `encoding` for an encoding without a codec, `too_large` beyond the limit, `undecodable`.
    """
    window = _WINDOWS.get(encoding)
    if window is None:
        raise Unscored(
            "encoding",
            f"messages are encoded as '{encoding or 'nothing named'}', for which there is no codec",
        )
    codec = zlib.decompressobj(window)
    try:
        plain = codec.decompress(content, limit + 1)
    except zlib.error as error:
        raise Unscored("undecodable", f"a message is not {encoding} ({error})") from None
    if len(plain) > limit:
        raise Unscored("too_large", f"a message unpacks to more than {limit:,} bytes")
    if not codec.eof:
        raise Unscored("undecodable", f"a message ends inside its {encoding} stream")
    if codec.unused_data:
        raise Unscored("undecodable", f"{len(codec.unused_data):,} bytes follow a message's {encoding} stream")
    return plain
