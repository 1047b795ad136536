"""The bodies of HTTP/1.1 messages: where they end, and what is in them.

    raw, content, rest = body.feed(data)

`raw` are the bytes of the body as they came, `content` what they carry, `rest` what comes behind the body. A body that
`is_done` ends by `ending`, which is no part of `raw`: of chunks the last one, with the trailers. The `rest` of a body
that is not done is to be fed again, after others have had their turn.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tocsin.http_relay.heads import CHUNKED, UNTIL_CLOSE, Fields, lines_of, read_trailers

LONGEST_SIZE_LINE: Final = 10  # of a chunk: 8 digits and the end of the line
LAST_CHUNK: Final = b"0\r\n"
MOST_CHUNKS: Final = 250  # that are read at once
_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")

Fed = tuple[bytes, bytes, bytes]


class BodyError(Exception):
    """A body that is not written as it must be."""


class Body:
    """A body. `ends_by_close`: the end of the connection is its end."""

    is_done = False
    ends_by_close = False

    @property
    def trailers(self) -> Fields:
        """The fields behind it."""
        return []

    @property
    def ending(self) -> bytes:
        """How it ends, behind all of its content."""
        return b""

    def feed(self, data: bytes) -> Fed:
        """Read on. Raises BodyError."""
        raise AssertionError("a body is of one kind")


class LengthBody(Body):
    """A body of so many bytes."""

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.is_done = not length

    def feed(self, data: bytes) -> Fed:
        remaining = self._remaining - len(data)
        if remaining > 0:
            self._remaining = remaining
            return data, data, b""
        self.is_done = True
        if not remaining:
            self._remaining = 0
            return data, data, b""
        content, rest = data[: self._remaining], data[self._remaining :]
        self._remaining = 0
        return content, content, rest


class OpenBody(Body):
    """A body that ends with the connection."""

    ends_by_close = True

    def feed(self, data: bytes) -> Fed:
        return data, data, b""


class ChunkedBody(Body):
    """A body in chunks, without extensions; its trailers have at most so many bytes."""

    def __init__(self, longest_trailers: int) -> None:
        self._longest = longest_trailers
        self._pending = b""  # the beginning of what is not complete: a size, an end of line
        self._remaining = 0  # of the chunk
        self._is_behind_data = False  # the end of a chunk's line is to come
        self._ends = False  # the last chunk has come, trailers follow
        self._trailers: Fields = []

    @property
    def trailers(self) -> Fields:
        return self._trailers

    @property
    def ending(self) -> bytes:
        return LAST_CHUNK + lines_of(self._trailers) + b"\r\n"

    def feed(self, data: bytes) -> Fed:
        if self._pending:
            data, self._pending = self._pending + data, b""
        if self._ends:
            return b"", b"", self._end(data)
        at, size = 0, len(data)
        contents: list[bytes] = []
        while at < size and len(contents) < MOST_CHUNKS:
            if self._remaining:
                content = data[at : at + self._remaining]
                contents.append(content)
                at += len(content)
                self._remaining -= len(content)
                self._is_behind_data = not self._remaining
            elif self._is_behind_data:
                if size - at < 2:
                    if data[at] != 13:
                        raise BodyError("a chunk is longer than its size")
                    break
                if data[at] != 13 or data[at + 1] != 10:
                    raise BodyError("a chunk is longer than its size")
                self._is_behind_data = False
                at += 2
            else:
                end = data.find(b"\r\n", at, at + LONGEST_SIZE_LINE)
                if end < 0:
                    if size - at >= LONGEST_SIZE_LINE or not _DIGITS.issuperset(data[at:].removesuffix(b"\r")):
                        raise BodyError("the size of a chunk is no number, or has an extension")
                    break
                digits = data[at:end]
                if not digits or not _DIGITS.issuperset(digits):
                    raise BodyError("the size of a chunk is no number, or has an extension")
                self._remaining = int(digits, 16)
                if not self._remaining:
                    self._ends = True
                    return data[:at], b"".join(contents), self._end(data[end + 2 :])
                at = end + 2
        content = contents[0] if len(contents) == 1 else b"".join(contents)
        if len(contents) == MOST_CHUNKS and at < size:
            return data[:at], content, data[at:]
        self._pending = data[at:]
        return data if at == size else data[:at], content, b""

    def _end(self, data: bytes) -> bytes:
        """Read the trailers; what comes behind them."""
        if data.startswith(b"\r\n"):
            self.is_done = True
            return data[2:]
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > self._longest:
                raise BodyError("the trailers are too long")
            if b"\n" in data.replace(b"\r\n", b""):  # to some this line has ended, and the body with the next
                raise BodyError("the trailers are not written as HTTP/1.1 says")
            self._pending = data
            return b""
        trailers = read_trailers(data[: end + 4])
        if trailers is None:
            raise BodyError("the trailers are not written as HTTP/1.1 says")
        self._trailers = trailers
        self.is_done = True
        return data[end + 4 :]

    def drop_trailers(self, names: Collection[str]) -> None:
        """Leave some of the trailers out."""
        self._trailers = [(name, value) for name, value in self._trailers if name not in names]


def body_of(length: int, longest_trailers: int) -> Body:
    """The body that a head announces."""
    if length == CHUNKED:
        return ChunkedBody(longest_trailers)
    return OpenBody() if length == UNTIL_CLOSE else LengthBody(length)


def chunk(content: bytes) -> bytes:
    """A chunk with some content."""
    return b"%x\r\n%b\r\n" % (len(content), content)
