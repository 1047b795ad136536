"""One guarded request of HTTP and its response: bytes in, signals out. No sockets, no framework, no waiting.

Whoever carries the exchange (ASGI, httpx, an external processor) tells it what comes, in this order:

    exchange = Exchanges(guard).open(verb, path, headers)       # None: the route is not guarded
    changed = exchange.on_request(body)                         # what to send in its place, None: as it came
    head = exchange.on_response_headers(status, headers)        # what will be done to the response
    for segment in exchange.on_response_chunk(content): ...     # and at the end
    for segment in exchange.on_response_end(): ...

A segment is a part of the response as it may go on to the caller, with the messages in it that are judged: each is told
to `exchange.call`, whose pieces are judged as those of any other call.
"""

from __future__ import annotations

from collections.abc import Mapping

from tocsin.exchange.treatment import (
    DOCUMENT,
    EVENTS,
    LINES,
    UNJUDGED,
    Headers,
    Message,
    ResponseTreatment,
    Segment,
    read_content_type,
)
from tocsin.judgement.call import Call, Fault, StreamedCall
from tocsin.judgement.guard import Guard
from tocsin.protocols.http.encodings import Decoding, decoding
from tocsin.protocols.http.framing import Event, Framing, JsonLinesFraming, ServerSentEvents, WholeDocument, with_data
from tocsin.protocols.http.method import JsonMethod
from tocsin.protocols.http.tensors import LENGTH_HEADER, InferRoute
from tocsin.protocols.metadata import joined_values
from tocsin.protocols.method import Edit
from tocsin.unscored import Unscored


class Exchange:
    """One request and its response. `call` is its call for judgement. `asks`: the request may be changed, so that it
    must be complete before it goes on, and must go without its header `accept-encoding`. `wants_request`: `on_request`
    must be called in any case. `is_another`: it reads another response to the request of the call, which is judged by
    the one that it had.
    """

    def __init__(self, guard: Guard, call: Call, metadata: Mapping[str, str], *, is_another: bool = False) -> None:
        self.guard, self.call = guard, call
        self._is_another = is_another
        assert isinstance(call.reads, JsonMethod)
        self.method: JsonMethod = call.reads
        self.kind = DOCUMENT
        self.repeated: Mapping[str, bytes] = {}  # members that messages of Tocsin's own repeat
        self._edits = guard.edits(call)
        self._applied: tuple[Edit, bytes] | None = None  # what was asked for, and the caller's request
        self._limit = guard.max_message
        self._holds = guard.mode == "enforce"
        self._request_encoding = metadata.get("content-encoding", "")
        self._request_headers, self._response_headers = metadata, metadata
        self._framing: Framing | None = None
        self._decoding: Decoding | None = None
        self._by_segments = False
        self._held_parts: list[bytes] | None = None  # of a document whose headers wait for its verdict, as it came
        self._held_size = 0
        self._has_messages = False
        self.is_coded = False  # the response's bytes go on in their content coding

    @property
    def asks(self) -> bool:
        """Whether the request may be changed."""
        return bool(self._edits)

    @property
    def wants_request(self) -> bool:
        """Whether judging the response, or acting on it, needs the request."""
        return self.asks or self.call.wants_request

    @property
    def strips(self) -> bool:
        """Whether Tocsin asked for something that it has to take out of the response again."""
        return self._applied is not None

    @property
    def kept_bytes(self) -> int:
        """Bytes of the response that wait for what completes them."""
        return 0 if self._framing is None else self._framing.kept_bytes

    def on_request(self, body: bytes | None, fault: Fault | None = None) -> bytes | None:
        """The request is complete, or could not be read for `fault`. Returns what goes on in its place, None for the
        same bytes.
        """
        if body is not None:
            try:
                body = self.method.whole_document(self._plain_request(body), self._request_headers, "request")
            except Unscored as why:
                body, fault = None, (why.reason, str(why))
            except Exception as error:
                body, fault = None, ("undecodable", f"{type(error).__name__}: {error}")
        self.call.on_request_message(body, fault)
        if body is None or self._request_encoding:
            return None
        for edit in self._edits:
            try:
                changed = edit.ask(body)
            except Exception:  # then it goes on as it came, and what is missing in the response is counted
                return None
            if changed is not None:
                self._applied = edit, body
                self.call.replace_request(changed)
                return changed
        return None

    def _plain_request(self, body: bytes) -> bytes:
        if len(body) > self._limit:
            raise Unscored("too_large", f"the request has more than {self._limit:,} bytes")
        undone = decoding(self._request_encoding)
        if undone is None:
            return body
        parts, size = list[bytes](), 0
        for part in undone.feed(body):
            parts.append(part)
            size += len(part)
            if size > self._limit:
                raise Unscored("too_large", f"the request unpacks to more than {self._limit:,} bytes")
        undone.end()
        return b"".join(parts)

    def on_response_headers(self, status: int, headers: Headers) -> ResponseTreatment:
        """The response begins; its header fields are named in lower case. Only success (2xx) is judged."""
        if self.call.wants_initial:
            headers = list(headers)
            self.call.initial_metadata = joined_values(headers, self.call.wants_initial)
        fields = self._response_headers = dict(headers)
        if not 200 <= status < 300:
            return UNJUDGED
        content_type = read_content_type(fields.get("content-type", "application/json"))
        is_binary = LENGTH_HEADER in fields and isinstance(self.method, InferRoute)
        self.kind = DOCUMENT if is_binary else content_type.kind
        fault = content_type.fault(self.kind, streams=self.method.streams)
        encoding = fields.get("content-encoding", "")
        if fault is None and encoding:
            try:
                self._decoding = decoding(encoding)
            except Unscored as why:
                fault = why.reason, str(why)
        if not self._is_another:
            self._describe_response(self.call)
        rewrites = fault is None and (self.strips or (self._holds and self._decoding is not None))
        self._framing = _Unread(fault) if fault is not None else self._new_framing()
        annotates = self.guard.mode == "annotate"  # by a verdict that goes before the end
        self._by_segments = self._holds or rewrites or (annotates and bool(self.method.stream.done))
        self.is_coded = bool(encoding) and not rewrites and encoding.strip().lower() not in ("", "identity")
        if self._decoding is not None and not rewrites:
            self._by_segments = False
        if annotates and self.kind == DOCUMENT and not self._by_segments:
            self._held_parts = []
        return ResponseTreatment(True, self.kind, rewrites)

    def _describe_response(self, call: Call) -> None:
        call.ends_by_ending = self.kind != DOCUMENT
        if self.kind == DOCUMENT and isinstance(call, StreamedCall):
            call.expect_document()

    def on_response_chunk(self, content: bytes) -> list[Segment]:
        """The segments that these bytes of the response complete."""
        if self._framing is None:
            return [Segment(content)] if content else []
        events: list[Event] = []
        if self._decoding is None:
            events = self._framing.feed(content)
        else:
            try:
                for part in self._decoding.feed(content):
                    events += self._framing.feed(part)
            except Unscored as why:
                events += self._give_up(why)
        return self._segments(events, content if self._held_parts is None else self._keep(self._held_parts, content))

    def on_response_end(self) -> list[Segment]:
        """No more bytes come."""
        if self._framing is None:
            return []
        events: list[Event] = []
        try:
            if self._decoding is not None:
                self._decoding.end()
            events += self._framing.end()
        except Unscored as why:
            events += self._give_up(why)
        held_parts, self._held_parts = self._held_parts, None
        return self._segments(events, b"".join(held_parts or ()))

    def forget_response(self) -> None:
        """No more of the response is read: drop what waits for its rest at once, whoever still holds the exchange."""
        if self._framing is not None:
            self._framing, self._decoding = _Forgotten(), None
        self._held_parts = None

    def messages_of(self, status: int, headers: Headers, body: bytes) -> tuple[list[bytes], bytes] | None:
        """The messages of another response to the same request, and its body as the caller may get it. None where it is
        no success or cannot be read.
        """
        another = Exchange(self.guard, self.call, {}, is_another=True)
        another._applied = self._applied
        head = another.on_response_headers(status, headers)
        if not head.is_judged:
            return None
        segments = another.on_response_chunk(body) + another.on_response_end()
        messages = [message for segment in segments for message in segment.messages]
        contents = [content for content, _ in messages if content is not None]
        if not contents or len(contents) < len(messages) or another.kind != self.kind:
            return None
        return contents, b"".join([segment.raw for segment in segments])

    def _new_framing(self) -> Framing:
        if self.kind == EVENTS:
            return ServerSentEvents(self._limit)
        return JsonLinesFraming(self._limit) if self.kind == LINES else WholeDocument(self._limit)

    def _keep(self, held_parts: list[bytes], content: bytes) -> bytes:
        """Keep what came of a document; all of it goes on once it is too large to be read."""
        held_parts.append(content)
        self._held_size += len(content)
        if self._held_size <= self._limit:
            return b""
        self._held_parts = None
        return b"".join(held_parts)

    def _give_up(self, why: Unscored) -> list[Event]:
        """The response's content coding is damaged, so that the rest cannot be read."""
        self._decoding = None
        self._framing = _Unread(None)
        return [Event(b"", None, (why.reason, str(why)))]

    def _segments(self, events: list[Event], content: bytes) -> list[Segment]:
        if self._by_segments:
            return [Segment(*self._read(event)) for event in events]
        messages: list[Message] = []
        is_done = False
        for event in events:
            _, of_event, ends = self._read(event)
            messages += of_event
            is_done = is_done or ends
        return [Segment(content, messages, is_done)] if content or messages else []

    def _read(self, event: Event) -> tuple[bytes, list[Message], bool]:
        """The bytes that go on of an event, the messages in it, and whether it says that nothing follows."""
        if event.fault is not None:
            return event.raw, [(None, event.fault)], False
        if event.data is None:
            return event.raw, [], False
        mark = self.method.end_mark
        if mark and event.data == mark and self.kind != DOCUMENT:
            return event.raw, [], True
        try:
            messages = self._messages(event.data)
            raw = event.raw
            if self._applied is not None:
                edit, request = self._applied
                stripped = edit.strip(request, event.data)
                raw = raw if stripped == event.data else with_data(event, stripped)
        except Unscored as why:
            return event.raw, [(None, (why.reason, str(why)))], False
        except Exception as error:  # whatever is in a response, it is counted
            return event.raw, [(None, ("undecodable", f"{type(error).__name__}: {error}"))], False
        return raw, messages, False

    def _messages(self, data: bytes) -> list[Message]:
        method = self.method
        if not method.streams:
            return [(method.whole_document(data, self._response_headers, "response"), None)]
        parts = method.split(data)
        if self.kind != DOCUMENT and self._has_messages and method.is_summary(parts[0]):
            return []
        self._has_messages = True
        if not self.repeated and method.stream.repeat and self.kind != DOCUMENT:
            self.repeated = method.members(data, method.stream.repeat)
        return [(part, None) for part in parts]


class _Unread:
    """A response that cannot be read, for one reason."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault

    kept_bytes = 0

    def feed(self, content: bytes) -> list[Event]:
        fault, self._fault = self._fault, None
        return [Event(content, None, fault)]

    def end(self) -> list[Event]:
        return [Event(b"", None, self._fault)] if self._fault is not None else []


class _Forgotten:
    """A response of which nothing more is read, and nothing goes on."""

    kept_bytes = 0

    def feed(self, content: bytes) -> list[Event]:
        del content
        return []

    def end(self) -> list[Event]:
        return []
