"""Cuts streams of documents into events: server-sent events (WHATWG HTML, section 9.2) and lines of JSON.

Bytes arrive cut anywhere. Each event keeps its bytes, so that passing all events on passes the stream on unchanged.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from tocsin.protocols.http.document import BOM
from tocsin.unscored import Unscored

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_EVENT_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?:\r\n|\n|\r)")  # CRLF is one end of a line, not two
_LONGEST_END: Final = 4


class Event:
    """A part of a stream: its bytes, and its data, None where there is nothing to read (a comment, an end of line).
    `fault` is the reason why its data cannot be read.
    """

    __slots__ = ("data", "fault", "raw")

    def __init__(self, raw: bytes, data: bytes | None, fault: tuple[str, str] | None = None) -> None:
        self.raw, self.data, self.fault = raw, data, fault


class Framing(Protocol):
    """Cuts a stream into events. `kept_bytes` of it are here, because what they belong to is not complete."""

    @property
    def kept_bytes(self) -> int: ...

    def feed(self, content: bytes) -> list[Event]:
        """The events that these bytes complete."""
        ...

    def end(self) -> list[Event]:
        """The rest, when no more bytes come."""
        ...


class _Cutting:
    """Cuts at the end of each event. An event of more than `limit` bytes passes in parts and is not read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        self._is_oversized = False

    @property
    def kept_bytes(self) -> int:
        """Bytes of an event that is not complete."""
        return len(self._buffer)

    def feed(self, content: bytes) -> list[Event]:
        """The events that these bytes complete."""
        self._buffer += content
        events = []
        start = 0
        while (end := self._end_behind(max(start, self._searched))) > 0:
            events.append(self._event(bytes(self._buffer[start:end])))
            start = self._searched = end
        del self._buffer[:start]
        self._searched = max(0, len(self._buffer) - _LONGEST_END + 1)
        if len(self._buffer) > self._limit:
            large = self._buffer
            self._buffer, self._searched = large[self._searched :], 0
            del large[len(large) - len(self._buffer) :]
            passed = bytes(large)  # one copy: it may be as large as all other responses together
            del large
            events.append(self._oversized(passed))
        return events

    def end(self) -> list[Event]:
        """The rest, when no more bytes come. Some parsers take it for an event, so it is read as one."""
        content, self._buffer = bytes(self._buffer), bytearray()
        return [self._event(content)] if content else []

    def _event(self, raw: bytes) -> Event:
        if self._is_oversized:
            self._is_oversized = False
            return Event(raw, None)
        if len(raw) > self._limit:
            return Event(raw, None, self._fault())
        return Event(raw, self._data(raw))

    def _oversized(self, raw: bytes) -> Event:
        is_first, self._is_oversized = not self._is_oversized, True
        return Event(raw, None, self._fault() if is_first else None)

    def _fault(self) -> tuple[str, str]:
        return "too_large", f"an event has more than {self._limit:,} bytes"

    def _end_behind(self, start: int) -> int:
        """Where the next event after `start` ends in the buffer, 0 where it does not end yet."""
        raise NotImplementedError

    def _data(self, raw: bytes) -> bytes | None:
        """The data of one server-sent event, None where it has none."""
        raise NotImplementedError


class ServerSentEvents(_Cutting):
    """`text/event-stream`: lines that end in LF, CRLF or CR, events that end in an empty one."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._is_first = True
        self._has_returns = False

    def feed(self, content: bytes) -> list[Event]:
        if not self._has_returns and b"\r" in content:  # of what is new: a long event is not searched again and again
            self._has_returns = True
        if not self._has_returns and not self.kept_bytes and 0 < content.find(b"\n\n") == len(content) - 2:
            return [self._event(content)]  # mostly each event comes by itself
        return super().feed(content)

    def _end_behind(self, start: int) -> int:
        if not self._has_returns:  # mostly so, and faster
            at = self._buffer.find(b"\n\n", start)
            return at + 2 if at >= 0 else 0
        match = _EVENT_END.search(self._buffer, start)
        return 0 if match is None else match.end()

    def _data(self, raw: bytes) -> bytes | None:
        if self._is_first:
            self._is_first = False
            raw = raw.removeprefix(BOM)
        if not self._has_returns and raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
            return raw[6:-2] or None  # mostly it is one line
        lines = []
        for line in _LINE_END.split(raw):
            name, _, value = line.partition(b":")
            if name == b"data":
                lines.append(value[1:] if value.startswith(b" ") else value)
        return b"\n".join(lines) or None


class JsonLinesFraming(_Cutting):
    """`application/x-ndjson`: one document on each line."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)

    def _end_behind(self, start: int) -> int:
        return self._buffer.find(b"\n", start) + 1

    def _data(self, raw: bytes) -> bytes | None:
        return raw.strip() or None


class WholeDocument:
    """`application/json`: all bytes are one document of at most `limit` bytes. A larger one passes in parts and is not
    read.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of the document, as long as it may still be read."""
        return self._size if self._size <= self._limit else 0

    def feed(self, content: bytes) -> list[Event]:
        """Nothing until the end, unless the document is too large."""
        was_within = self._size <= self._limit
        self._size += len(content)
        if self._size <= self._limit:
            self._parts.append(content)
            return []
        passed, self._parts = [*self._parts, content], []
        fault = ("too_large", f"the response has more than {self._limit:,} bytes") if was_within else None
        return [Event(passed[0], None, fault), *[Event(part, None) for part in passed[1:]]]

    def end(self) -> list[Event]:
        """The document."""
        content = b"".join(self._parts)
        if self._size > self._limit:
            return []
        if not content:
            return [Event(b"", None, ("no_response", "the response has no body"))]
        return [Event(content, content)]


def event_of(data: bytes, name: str = "") -> bytes:
    """A server-sent event that carries this data."""
    label = b"event: " + name.encode() + b"\n" if name else b""
    return label + b"".join([b"data: " + line + b"\n" for line in _LINE_END.split(data)]) + b"\n"


def with_data(event: Event, data: bytes) -> bytes:
    """The bytes of an event with other data and everything else unchanged. Raises Unscored where its data is split into
    parts that cannot be replaced.
    """
    if event.data is None:
        return event.raw
    if event.raw.count(event.data) == 1:
        return event.raw.replace(event.data, data)
    raise Unscored("undecodable", "the data of an event stands in it in several lines, or twice")
