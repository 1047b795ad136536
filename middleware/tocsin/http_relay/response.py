"""A guarded response on its way to the caller, in HTTP/1.1: it passes while it is judged, or waits until it is.

A response takes one of three ways. PASSING: its bytes go on as they came (observe; whatever is not judged). BUFFERED:
head and body wait until the document is judged, then they go on as they came, with the verdict in the head. STREAMED:
events go on one by one, in chunks of the relay's own. The gate says what may go; this knows how.
"""

from __future__ import annotations

import time
from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from tocsin.exchange.exchange import BODY_DEPENDENT_FIELDS, DOCUMENT, EVENTS, Exchange, ResponseTreatment, Segment
from tocsin.exchange.replies import Reply, ending, reply, verdict_event, verdict_fields
from tocsin.http_relay.bodies import LAST_CHUNK, Body, ChunkedBody, chunk
from tocsin.http_relay.context import RelayedResponse, ResponseHost
from tocsin.http_relay.heads import CHUNKED, Http1Request, ResponseHead, lines_of
from tocsin.http_relay.passing import CLOSE, HOP
from tocsin.http_relay.replies import refusal, written
from tocsin.judgement import gate as gates
from tocsin.judgement.accepting import accept_verdict
from tocsin.judgement.call import Call, Fault, StreamedCall
from tocsin.judgement.enforcement import Ask, Judge, Outcome
from tocsin.judgement.gate import Actions, Gate, Release, Replace
from tocsin.judgement.policy import Replacement
from tocsin.outbound_http import Answer, HttpCall
from tocsin.relay.context import RelayContext
from tocsin.verdict import METADATA_KEY

PASSING, BUFFERED, STREAMED = 0, 1, 2
BEYOND: Fault = ("undecodable", "a message follows the end of a stream")
LOST = "the upstream closed the connection in the middle of its response"


class HeldSegment:
    """A segment, and how many of its messages may not go on yet; one that tells the end waits for all before it."""

    __slots__ = ("messages", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.messages = len(segment.messages) + (1 if segment.is_done else 0)


class GuardedResponse(RelayedResponse):
    """A guarded response. `again` is the request where it may be sent once more, `body` the reader of its own body."""

    def __init__(
        self,
        context: RelayContext,
        host: ResponseHost,
        exchange: Exchange,
        request: Http1Request,
        again: HttpCall | None,
        head: ResponseHead,
        body: Body,
    ) -> None:
        self._context = context
        self._host = host
        self._exchange = exchange
        self._request = request
        self._again = again
        self._head = head
        self._body = body
        self.call = exchange.call
        self._holds = context.enforces
        self._annotates = context.annotates
        self.gate = Gate(context.guard, exchange.call, holds=self._holds, can_retry=again is not None)
        self._treatment = ResponseTreatment(False)
        self._way = PASSING
        self._head_waits = False
        self._is_chunked = False  # as it goes out
        self._has_trailer = False  # the verdict goes behind the last chunk
        self._segments: deque[HeldSegment] = deque()
        self._raw: list[bytes] = []  # of a BUFFERED response, as it came
        self._ready: list[bytes] = []  # what may go, of what waited
        self._size = 0  # bytes that wait, as they were charged
        self._kept_bytes = 0  # of messages that wait to be judged with others, as they were charged
        self._is_done = False  # the response told that nothing follows
        self._is_cleared = False  # everything may go, as far as verdicts are concerned
        self._is_complete = False
        self._is_lost = False
        self._has_verdict_event = False
        self._answer: Reply | None = None
        self._give_up_asking: Callable[[], object] | None = None
        self._arrived = 0.0
        self._timer: TimerHandle | None = None

    # -- what comes

    def on_head(self) -> None:
        head, exchange = self._head, self._exchange
        self._treatment = treatment = exchange.on_response_headers(head.status, head.fields)
        if not treatment.is_judged:
            self.gate.close()
        self._accept()
        is_document = treatment.kind == DOCUMENT
        if treatment.is_judged and (treatment.rewrites or self._holds or (self._annotates and is_document)):
            self._way = BUFFERED if is_document else STREAMED
        elif treatment.is_judged and self._annotates and (self._tells_by_event or self._tells_by_trailer):
            self._way = STREAMED
        self._is_cleared = not (self._holds or (self._annotates and self._way != PASSING)) or not treatment.is_judged
        self._head_waits = self._way == BUFFERED or (self._way == STREAMED and self._holds)
        if not self._head_waits:
            self._send_head()

    @property
    def _tells_by_event(self) -> bool:
        """Whether the verdict goes out as an event, or in a comment: not into the middle of what is encoded."""
        if self._treatment.kind != EVENTS or self._context.config.stream_verdicts == "none":
            return False
        encoding = self._head.value("content-encoding").lower()
        return self._treatment.rewrites or encoding in ("", "identity")

    @property
    def _tells_by_trailer(self) -> bool:
        """Whether the verdict goes out behind the last chunk."""
        return self._annotates and self._request.takes_trailers and self._treatment.kind != DOCUMENT

    def _accept(self) -> None:
        """Take the verdict that was made behind, where that is configured, of a response of one message."""
        context = self._context
        if not context.trusts_verdicts or self.call.streams or not self._treatment.is_judged:
            return
        text = self._head.value(METADATA_KEY)
        if not text:
            return
        if accept_verdict(context.guard, self.call, text):
            context.accepted += 1
        else:
            context.not_understood["verdict"] += 1

    def on_body(self, raw: bytes, content: bytes) -> None:
        if self.is_over:
            return
        if self._way == PASSING:
            self._host.write(raw)
            if not self._treatment.is_judged:
                return
        elif self._way == BUFFERED:
            self._raw.append(raw)
            self._keep(len(raw))
        if content:
            self._take(self._exchange.on_response_chunk(content))
            self._flush()

    def on_end(self) -> None:
        if self.is_over:
            return
        self._is_complete = True
        if isinstance(self._body, ChunkedBody):
            self._body.drop_trailers((METADATA_KEY,))
        ending = self._body.ending
        if self._way == PASSING:
            if ending:
                self._host.write(ending)
        elif self._way == BUFFERED:
            self._raw.append(ending)
        if self._treatment.is_judged:
            self._take(self._exchange.on_response_end())
            self._do(self.gate.on_end())
            if self._annotates and self.gate.waiting:
                self._limit()
        self._finish()
        self._flush()

    def on_lost(self) -> None:
        if self.is_over:
            return
        self._is_lost = True
        if self._way == STREAMED:
            self._is_complete = True
            self._do(self.gate.on_reset())
            self._finish()
            self._flush()
            return
        self.is_over = True
        if self._way == BUFFERED:
            self._send_reply(refusal(502, "UPSTREAM", LOST))
            self._drop()
            self._host.on_response_done()
        else:
            if self._treatment.is_judged:
                self._do(self.gate.on_reset())
            self._drop()
            self._host.cut()

    def on_gone(self) -> None:
        self.is_over = True
        if self._way != PASSING:
            self.gate.close()
        self._drop()

    def _take(self, segments: Sequence[Segment]) -> None:
        gate, memory = self.gate, self._host.memory
        for segment in segments:
            if self.is_over:
                return
            if self._is_done and segment.messages:
                segment = self._beyond(segment)
            waiting = HeldSegment(segment)
            self._segments.append(waiting)
            if self._way == STREAMED and segment.raw:
                self._keep(len(segment.raw))
            for content, fault in segment.messages:
                if content is not None and memory.lacks_room:
                    content, fault = None, ("memory", "a message was not kept")
                self._do(gate.on_message(waiting, content, fault))
                if self.call.streams:
                    self._count_kept()
            if segment.is_done and not self._is_done:
                self._is_done = True
                self._do(gate.on_end())
                if self._annotates and gate.waiting:
                    self._limit()
        self._advance()

    def _beyond(self, segment: Segment) -> Segment:
        """Messages behind what tells that nothing follows: they are counted; where responses are held, they do not go
        on.
        """
        unjudged = self.call.on_response_message(None, BEYOND)
        if unjudged is not None:
            self._context.guard.judge([unjudged])
        return Segment(b"" if self._holds else segment.raw)

    # -- what the gate says

    def judged(self, call: Call) -> None:
        """A call has its verdict."""
        self._do(self.gate.on_verdict(call))
        self._flush()

    def _on_late(self) -> None:
        self._timer = None
        actions = self.gate.on_deadline()
        if self.gate.late_verdict is not None:
            self.call.verdict = self.gate.late_verdict
        self._do(actions)
        self._advance()
        self._finish()
        self._flush()

    def _do(self, actions: Actions) -> None:
        for action in actions:
            if action is gates.END:
                self._is_cleared = True
                self._advance()
                self._finish()
            elif isinstance(action, Release):
                self._release(action.items)
            elif isinstance(action, Judge):
                self._submit(action.call)
            elif isinstance(action, Replace):
                self._replace(action.instead)
            elif isinstance(action, Ask):
                self._ask(action)

    def _submit(self, piece: Call) -> None:
        self._arrived = self._arrived or time.perf_counter()
        self._host.submit(piece, self)
        if self._holds or self._way == BUFFERED:
            self._limit()

    def _limit(self) -> None:
        if self._timer is None and not self.is_over:
            self._timer = self._host.limit(self.call, self._on_late)

    def _release(self, items: Iterable[HeldSegment]) -> None:
        for waiting in items:
            waiting.messages -= 1
        self._advance()

    def _advance(self) -> None:
        """Let go the segments that may, as far as there are none before them that may not."""
        segments = self._segments
        while segments and segments[0].messages <= (1 if segments[0].segment.is_done and self._is_cleared else 0):
            segment = segments.popleft().segment
            if self._way == PASSING:
                continue
            self._note_finished(segment)
            if segment.is_done:
                self._add_verdict_event()
            if segment.raw:
                self._ready.append(segment.raw)

    def _note_finished(self, segment: Segment) -> None:
        """Sequences whose end goes on get no other end, should the response be stopped."""
        call, method = self.call, self._exchange.method
        if not self._holds or not isinstance(call, StreamedCall) or not method.stream.finish:
            return
        for content, _ in segment.messages:
            if content is not None and (sequence := method.finished_sequence(content)) is not None:
                call.complete.add(sequence)

    def _add_verdict_event(self) -> None:
        if self._has_verdict_event or not self._annotates or not self._tells_by_event:
            return
        if event := verdict_event(self._exchange):
            self._has_verdict_event = True
            self._ready.append(event)

    # -- what goes out

    def _flush(self) -> None:
        if self.is_over or not self._ready:
            return
        if self._way == BUFFERED and self._is_complete:
            return
        if self._way == BUFFERED:  # the document is too large to be read: it passes
            self._way = STREAMED if self._treatment.rewrites else PASSING
            self._send_head()
            if self._way == PASSING:
                self._ready.clear()
                self._host.write(b"".join(self._raw))
            self._raw.clear()
            self._free(self._size)
            if self._way == PASSING:
                return
        content = b"".join(self._ready)
        self._ready.clear()
        self._free(len(content))
        if self._head_waits:
            self._send_head()
        self._host.write(self._framed(content))

    def _framed(self, content: bytes) -> bytes:
        return chunk(content) if self._is_chunked and content else content

    def _send_head(self) -> None:
        self.is_begun = True
        self._head_waits = False
        self._host.write(self._head_as_sent())

    def _head_as_sent(self, verdict: Sequence[tuple[str, str]] = (), length: int | None = None) -> bytes:
        """The head, changed where it has to be; `length` is the body's where that is another one."""
        head, request = self._head, self._request
        removing = {METADATA_KEY} if any(name == METADATA_KEY for name, _ in head.fields) else set()
        adding = list(verdict)
        if self._treatment.rewrites:
            removing |= BODY_DEPENDENT_FIELDS
        if length is not None:
            removing |= {"content-length", "transfer-encoding", "trailer"}
            adding.append(("content-length", str(length)))
        elif self._way == STREAMED:
            self._is_chunked = head.length == CHUNKED
            if head.length != CHUNKED and request.minor == 1:
                self._is_chunked = True
                removing.add("content-length")
                adding.append(("transfer-encoding", "chunked"))
            elif not self._is_chunked:
                removing.add("content-length")
            if self._is_chunked and self._tells_by_trailer:
                self._has_trailer = True
                adding.append(("trailer", METADATA_KEY))
        closes = self._host.closes_after() or (self._way == STREAMED and not self._is_chunked)
        if closes and "close" not in head.options and (head.keeps_alive or self._way == STREAMED):
            removing |= HOP
            adding += CLOSE
        return head.changed(removing, adding) if removing or adding else head.raw

    def _finish(self) -> None:
        """Let the body go where it waited whole, and the end."""
        if self.is_over or not self._is_cleared or not self._is_complete:
            return
        self._end_waiting()
        self._advance()
        if self._way == PASSING:
            self.is_over = True
            self._drop()
            self._host.on_response_done()
            return
        if self._way == STREAMED:
            self._finish_stream()
            return
        self.is_over = True
        verdict = verdict_fields(self.call) if self._annotates else []
        if self._treatment.rewrites:
            content = b"".join(self._ready)
            head = self._head_as_sent(verdict, len(content))
        else:
            content = b"".join(self._raw)
            head = self._head_as_sent(verdict)
        self.is_begun = True
        self._host.write(head + content)
        self._drop()
        self._host.on_response_done()

    def _finish_stream(self) -> None:
        """The end of a stream, behind everything that waited."""
        if not self._is_lost:
            self._add_verdict_event()
        self._flush()
        self.is_over = True
        if self._is_lost:
            if self._head_waits:
                self._send_reply(refusal(502, "UPSTREAM", LOST))
                self._drop()
                self._host.on_response_done()
            else:
                self._drop()
                self._host.cut()
            return
        if self._head_waits:
            self._send_head()
        self._end_stream(b"", self._body.trailers)

    def _end_stream(self, content: bytes, trailers: Sequence[tuple[str, str]]) -> None:
        """Write the last of a stream, and its end."""
        content = self._framed(content)
        if self._is_chunked:
            fields = [*trailers, *(verdict_fields(self.call) if self._has_trailer else [])]
            content += LAST_CHUNK + lines_of(fields) + b"\r\n"
        if content:
            self._host.write(content)
        closes = not self._is_chunked
        self._drop()
        self._host.on_response_done(closes=closes)

    def _send_reply(self, sent: Reply, verdict: Sequence[tuple[str, str]] = ()) -> None:
        self.is_begun = True
        self._head_waits = False
        self._host.write(written(sent, self._request, closes=self._host.closes_after(replaces=True), more=verdict))

    # -- acting

    def _ask(self, step: Ask) -> None:
        assert self._again is not None
        request = self._again._replace(seconds=step.seconds)
        self._give_up_asking = self._host.ask(step, request, self._on_answer)

    def _on_answer(self, answer: Answer | None) -> None:
        self._give_up_asking = None
        outcome: Outcome = None
        if answer is not None and (messages := self._exchange.messages_of(*answer)) is not None:
            outcome, body = messages
            self._answer = Reply(answer[0], answer[1], body)
        self._do(self.gate.on_answer(outcome))
        self._flush()

    def _replace(self, instead: Replacement) -> None:
        """Drop what is held, and send this in its place."""
        self._end_waiting()
        answer = self._answer if instead.further else None
        self._segments.clear()
        if self._way == BUFFERED:
            self._ready.clear()
        self._flush()
        self.is_over = True
        if self._head_waits:
            sent = answer if answer is not None else reply(self._exchange, instead)
            self._send_reply(sent, verdict_fields(self.call))
            self._drop()
            self._host.on_response_done()
        elif self._way == STREAMED:
            rest = answer.body if answer is not None else ending(self._exchange, instead)
            self._end_stream(rest, [])
        else:  # it has gone on in part, as it came
            self._drop()
            self._host.cut()

    # -- the end

    def _end_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._arrived:
            if self._way != PASSING:
                self._context.added(time.perf_counter() - self._arrived)
            self._arrived = 0.0

    def _keep(self, size: int) -> None:
        self._size += size
        self._host.memory.charge(size)

    def _free(self, size: int) -> None:
        size = min(size, self._size)
        self._size -= size
        self._host.memory.release(size)

    def _count_kept(self) -> None:
        """Count the messages that wait to be judged with others."""
        size = self.call.kept_bytes - self._kept_bytes
        self._kept_bytes = self.call.kept_bytes
        if size > 0:
            self._host.memory.charge(size)
        elif size:
            self._host.memory.release(-size)

    def _drop(self) -> None:
        """Nothing more goes out: give back what was kept."""
        if self._give_up_asking is not None:
            self._give_up_asking()
            self._give_up_asking = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._segments.clear()
        self._ready.clear()
        self._raw.clear()
        self._free(self._size)
        self._host.memory.release(self._kept_bytes)
        self._kept_bytes = 0
        self._context.guard.on_call_closed(self.call)
