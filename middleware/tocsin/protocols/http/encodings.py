"""Decodes content codings of HTTP bodies as they arrive, within a bound.

gzip and deflate come with Python; `br` and `zstd` need the packages `brotli` (1.2 or later) and `zstandard`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Protocol

from tocsin.unscored import Unscored

AT_ONCE = 1 << 20  # bytes that a step unpacks to
_SLICE = 256  # bytes of zstd a step takes: they unpack to at most 64 blocks of 128 KiB
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Decoding(Protocol):
    """Decodes one content coding."""

    def feed(self, content: bytes) -> Iterator[bytes]:
        """Decode these bytes, in parts of a bounded size. Raises Unscored `undecodable`."""
        ...

    def end(self) -> None:
        """No more bytes come. Raises Unscored `undecodable` where the data is incomplete."""
        ...


def decoding(encoding: str) -> Decoding | None:
    """A decoder for a Content-Encoding, None where there is nothing to decode. Raises Unscored `encoding` where no
    codec is installed, or several codings are applied.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in _WINDOWS:
        return _Zlib(name)
    try:
        if name == "br":
            return _Brotli()
        if name == "zstd":
            return _Zstandard()
    except (ImportError, TypeError):
        pass
    raise Unscored("encoding", f"the response is encoded as '{encoding}', for which there is no codec")


class _Zlib:
    def __init__(self, name: str) -> None:
        self._name = name
        self._codec = zlib.decompressobj(_WINDOWS[name])

    def feed(self, content: bytes) -> Iterator[bytes]:
        codec = self._codec
        try:
            while content:
                if codec.eof:  # some go on with a second member, others do not
                    raise Unscored("undecodable", f"bytes follow the end of what is {self._name}")
                yield codec.decompress(content, AT_ONCE)
                content = codec.unconsumed_tail or codec.unused_data
        except zlib.error as error:
            raise Unscored("undecodable", f"the response is not {self._name} ({error})") from None

    def end(self) -> None:
        if not self._codec.eof:
            raise Unscored("undecodable", f"the response ends inside of what is {self._name}")


class _Brotli:
    def __init__(self) -> None:
        self._module: Any = import_module("brotli")
        self._codec = self._module.Decompressor()
        self._codec.process(b"", output_buffer_limit=AT_ONCE)  # TypeError where the package knows no limit

    def feed(self, content: bytes) -> Iterator[bytes]:
        try:
            part = self._codec.process(content, output_buffer_limit=AT_ONCE)
            yield part
            while len(part) >= AT_ONCE or not self._codec.can_accept_more_data():  # there is more in it
                part = self._codec.process(b"", output_buffer_limit=AT_ONCE)
                yield part
        except self._module.error as error:
            raise Unscored("undecodable", f"the response is not br ({error})") from None

    def end(self) -> None:
        if not self._codec.is_finished():
            raise Unscored("undecodable", "the response ends inside of what is br")


class _Zstandard:
    def __init__(self) -> None:
        self._module: Any = import_module("zstandard")
        self._codec = self._module.ZstdDecompressor(max_window_size=1 << 23).decompressobj()  # 8 MiB: RFC 9659

    def feed(self, content: bytes) -> Iterator[bytes]:
        try:
            for start in range(0, len(content), _SLICE):
                if self._codec.eof:
                    raise Unscored("undecodable", "bytes follow the end of what is zstd")
                yield self._codec.decompress(content[start : start + _SLICE])
        except self._module.ZstdError as error:
            raise Unscored("undecodable", f"the response is not zstd ({error})") from None

    def end(self) -> None:
        if not self._codec.eof:
            raise Unscored("undecodable", "the response ends inside of what is zstd")
