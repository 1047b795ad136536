"""How a guarded response is written in HTTP/1.1: its head, changed where it has to be, its chunks and its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tocsin.exchange.treatment import BODY_DEPENDENT_FIELDS
from tocsin.http_relay.bodies import LAST_CHUNK, chunk
from tocsin.http_relay.heads import CHUNKED, Fields, Http1Request, ResponseHead, lines_of
from tocsin.http_relay.passing import CLOSE, HOP
from tocsin.verdict import METADATA_KEY

_LENGTHS: Final = frozenset({"content-length", "transfer-encoding", "trailer"})
_NO_FIELDS: Final[Sequence[tuple[str, str]]] = ()


class ResponseWriter:
    """Writes a response to a request. `rewrites`: its body is not the one that the upstream's head describes."""

    def __init__(self, request: Http1Request, head: ResponseHead) -> None:
        self.rewrites = False
        self._request = request
        self._head = head
        self._is_chunked = False
        self._has_trailer = False  # the verdict goes behind the last chunk

    def whole_head(
        self, verdict: Sequence[tuple[str, str]] = _NO_FIELDS, length: int | None = None, *, closes: bool
    ) -> bytes:
        """The head of a response whose body goes on as it came, or is another one of so many bytes."""
        removing, adding = self._changes()
        if length is not None:
            removing |= _LENGTHS
            adding.append(("content-length", str(length)))
        adding[:0] = verdict
        return self._changed(removing, adding, closes=closes and self._head.keeps_alive)

    def stream_head(self, *, has_trailer: bool, closes: bool) -> bytes:
        """The head of a response whose body goes on part by part: in chunks, where the caller knows these.
        `has_trailer`: a field of its own goes behind the last, where there is one.
        """
        head = self._head
        removing, adding = self._changes()
        self._is_chunked = head.length == CHUNKED or self._request.minor == 1
        if head.length != CHUNKED:
            removing.add("content-length")
            if self._is_chunked:
                adding.append(("transfer-encoding", "chunked"))
        if self._is_chunked and has_trailer:
            self._has_trailer = True
            adding.append(("trailer", METADATA_KEY))
        return self._changed(removing, adding, closes=closes or not self._is_chunked)

    @property
    def ends_by_close(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return not self._is_chunked

    def part(self, content: bytes) -> bytes:
        """A part of the body."""
        return chunk(content) if self._is_chunked and content else content

    def last(self, content: bytes, trailers: Sequence[tuple[str, str]], verdict: Fields) -> bytes:
        """The last part of the body, and its end."""
        content = self.part(content)
        if self._is_chunked:
            fields = [*trailers, *verdict] if self._has_trailer else trailers
            content += LAST_CHUNK + lines_of(fields) + b"\r\n"
        return content

    def _changes(self) -> tuple[set[str], Fields]:
        """The names of fields that never go on, and a list for those that come in their place."""
        removing = set[str]()
        for name, _ in self._head.fields:
            if name == METADATA_KEY:
                removing.add(name)
        if self.rewrites:
            removing |= BODY_DEPENDENT_FIELDS
        return removing, []

    def _changed(self, removing: set[str], adding: Fields, *, closes: bool) -> bytes:
        head = self._head
        if closes and "close" not in head.options:
            removing |= HOP
            adding += CLOSE
        return head.changed(removing, adding) if removing or adding else head.raw
