"""A response of an HTTP protocol (a JSON document or a stream of events) that Envoy reports: judged, held or replaced.

Under BUFFERED the body comes and goes as a whole. Under FULL_DUPLEX_STREAMED a document waits until it is complete,
with its headers, and a stream goes event by event. The gate decides what may go out; this module writes it as Envoy's
messages.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from tocsin.exchange.exchange import BODY_DEPENDENT_FIELDS, DOCUMENT, Exchange, ResponseTreatment, Segment
from tocsin.exchange.replies import Reply, ending, reply, verdict_event, verdict_fields
from tocsin.ext_proc import replies
from tocsin.ext_proc.context import ExchangeHost, HttpRequest, ProcessorContext
from tocsin.ext_proc.misfits import LINES
from tocsin.ext_proc.requests import (
    BUFFERED,
    FULL_DUPLEX_STREAMED,
    RESPONSE_BODY,
    RESPONSE_HEADERS,
    RESPONSE_TRAILERS,
    Fields,
    ProcessingRequest,
    read_fields,
)
from tocsin.ext_proc.response import JudgedResponse
from tocsin.judgement import gate as gates
from tocsin.judgement.accepting import accept_verdict
from tocsin.judgement.call import Call, Fault, StreamedCall
from tocsin.judgement.enforcement import Ask, Judge, Outcome
from tocsin.judgement.gate import Actions, Gate, Release, Replace
from tocsin.judgement.policy import Replacement, failed_closed
from tocsin.outbound_http import Answer
from tocsin.verdict import METADATA_KEY

MESSAGE_AFTER_END: Fault = ("undecodable", "a message follows the end of a stream")


class WaitingSegment:
    """A segment, and how many of its messages may not go on yet. A segment that ends the stream waits for all before
    it.
    """

    __slots__ = ("messages", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.messages = len(segment.messages) + (1 if segment.is_done else 0)


class HttpResponse(JudgedResponse):
    """A guarded response. `request` is the request to send again, None where it is not known."""

    def __init__(
        self,
        context: ProcessorContext,
        host: ExchangeHost,
        mode: int,
        exchange: Exchange,
        request: HttpRequest | None,
        *,
        is_observing: bool,
        holds: bool,
        annotates: bool,
    ) -> None:
        super().__init__(context, host, mode, exchange.call, is_observing=is_observing)
        self._exchange = exchange
        self._request = request
        self._holds = holds
        self._annotates = annotates
        self._waits = annotates or holds  # for verdicts, with what tells them
        self._is_streamed = mode == FULL_DUPLEX_STREAMED
        self._is_buffered = mode == BUFFERED
        self.gate = Gate(context.guard, exchange.call, holds=holds, can_retry=request is not None)
        self._head = ResponseTreatment(False)
        self._has_head = False  # the filter sends response headers
        self._names: list[str] = []  # of the response's headers
        self._waiting_segments: deque[WaitingSegment] = deque()
        self._head_waits = False  # the headers' reply has not left
        self._ready: list[bytes] = []
        self._size = 0  # bytes that wait, as they were charged
        self._came = b""  # the body, where it was buffered
        self._is_done = False  # the response told that nothing follows
        self._is_cleared = not self._waits  # everything may go, as far as verdicts are concerned
        self._is_complete = False
        self._ends_with_trailers = False
        self._has_verdict_event = False
        self._answer: Reply | None = None
        self._give_up_asking: Callable[[], object] | None = None

    @property
    def is_waiting(self) -> bool:
        gate = self.gate
        return self._waits and gate.awaits_verdict and not self.is_over

    @property
    def lacks_trailers(self) -> bool:
        return False

    # -- what Envoy tells

    def on_headers(self, message: ProcessingRequest) -> None:
        self._has_head = True
        fields = read_fields(message.content)
        self._names = [name for name, _ in fields]
        status = next((value for name, value in fields if name == ":status"), "")
        self._head = self._exchange.on_response_headers(int(status) if status.isdigit() else 0, fields)
        self._is_begun = self._head.is_judged
        if not self._head.is_judged:
            self.gate.close()
        elif message.end:
            self._is_complete = True
            self._do(self.gate.on_end())
            if self.is_over:
                return
        self._accept(fields)
        self._head_waits = self._head.is_judged and not message.end and self._is_streamed and self._delays_head
        if self._head.is_judged and not self.is_observing and self._annotates and not self._tells:
            self._context.misfits.count("not_told")
        if self.is_observing:
            self._pass(message)
        elif not self._head_waits:
            self._reply_head()

    @property
    def _delays_head(self) -> bool:
        """Whether the headers wait: for the first judgement, or in a document for the verdict that they carry."""
        return self._holds or (self._annotates and self._head.kind == DOCUMENT) or self._head.rewrites

    @property
    def _tells(self) -> bool:
        """Whether the verdict can be sent under the filter's mode."""
        return self._is_streamed or self._is_buffered

    def _accept(self, fields: Fields) -> None:
        """Accept another Tocsin's verdict, where that is configured and the response has one message."""
        texts = [value for name, value in fields if name == METADATA_KEY]
        if not self._trusts or not texts or self.call.streams or not self._head.is_judged:
            return
        if accept_verdict(self._context.guard, self.call, texts[-1]):
            self._context.accepted += 1
        else:
            self._context.not_understood["verdict"] += 1

    def on_body(self, message: ProcessingRequest) -> None:
        self._has_body = True
        if self.is_over:
            return
        if not self._has_head and self._refuses_headless():
            return
        if not self._head.is_judged:
            self._pass(message)
            return
        ends = message.end or self._is_buffered
        if self._is_buffered:
            self._came = message.content
        segments = self._exchange.on_response_chunk(message.content) if message.content else []
        if ends:
            segments += self._exchange.on_response_end()
        self._take(segments)
        if not (self._is_streamed or self._is_buffered):  # it passes as it comes
            if ends:
                self._end_response()
            self._pass(message)
            return
        if ends:
            self._end_response()
        self._flush()

    def _refuses_headless(self) -> bool:
        """A body whose headers do not come cannot be read: it is counted once. Whether it was refused."""
        self._has_head = True
        guard, call = self._context.guard, self.call
        call.model = guard.model_of(call)
        self._context.misfits.count("no_headers")
        guard.give_up(call, "not_sent", LINES["no_headers"])
        self.gate.close()
        if self.is_observing or not (self._holds and guard.closed(call)):
            return False
        guard.acted(call, "refused")
        self.is_over = True
        instead = failed_closed(call.verdict)
        self._host.reply(replies.immediate(503, instead.message.encode()))
        return True

    def on_trailers(self, message: ProcessingRequest) -> None:
        if self.is_over:
            return
        self._ends_with_trailers = True
        if not self._head.is_judged or not self._is_streamed:
            self._pass(message)
            return
        self._take(self._exchange.on_response_end())
        self._end_response()

    def _end_response(self) -> None:
        self._is_complete = True
        self._do(self.gate.on_end())
        if self._annotates and self.gate.waiting:
            self._limit()
        self._finish()

    def _take(self, segments: Sequence[Segment]) -> None:
        gate = self.gate
        for segment in segments:
            if self.is_over:
                return
            if self._is_done and segment.messages:
                segment = self._beyond(segment)
            waiting = WaitingSegment(segment)
            self._waiting_segments.append(waiting)
            if self._is_streamed or self._is_buffered:
                self._size += len(segment.raw)
                self._host.memory.charge(len(segment.raw))
            for content, fault in segment.messages:
                if self._host.memory.lacks_room and content is not None:
                    content, fault = None, ("memory", "a message was not kept")
                self._do(gate.on_message(waiting, content, fault))
                if self.call.streams:
                    self.count_kept()
            if segment.is_done and not self._is_done:
                self._is_done = True
                self._do(gate.on_end())
                if self._annotates and gate.waiting:
                    self._limit()
        self._advance()

    def _beyond(self, segment: Segment) -> Segment:
        """Count messages that come after the event that ends the stream. Held responses drop them."""
        unjudged = self.call.on_response_message(None, MESSAGE_AFTER_END)
        if unjudged is not None:
            self._context.guard.judge([unjudged])
        return Segment(b"" if self._holds else segment.raw)

    # -- what the gate says

    def judged(self, call: Call) -> None:
        self._do(self.gate.on_verdict(call))
        self._flush()

    def late(self) -> None:
        actions = self.gate.on_deadline()
        if self.gate.late_verdict is not None:
            self.call.verdict = self.gate.late_verdict
        self._do(actions)
        self._advance()
        self._finish()

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
        if self._holds or (self._annotates and self._head.kind == DOCUMENT):
            self._limit()

    def _release(self, items: Iterable[WaitingSegment]) -> None:
        for waiting in items:
            waiting.messages -= 1
        self._advance()

    def _advance(self) -> None:
        """Let segments go, in their order, as far as all their messages may."""
        waiting = self._waiting_segments
        while waiting and waiting[0].messages <= (1 if waiting[0].segment.is_done and self._is_cleared else 0):
            segment = waiting.popleft().segment
            self._note_finished(segment)
            if segment.is_done:
                self._add_verdict_event()
            if segment.raw:
                self._ready.append(segment.raw)

    def _note_finished(self, segment: Segment) -> None:
        """Remember the sequences whose end goes out: they get no second end if the response is stopped."""
        call, method = self.call, self._exchange.method
        if not self._holds or not isinstance(call, StreamedCall) or not method.stream.finish:
            return
        for content, _ in segment.messages:
            if content is not None and (sequence := method.finished_sequence(content)) is not None:
                call.complete.add(sequence)

    def _add_verdict_event(self) -> None:
        if not self._has_verdict_event and self._waits and (event := verdict_event(self._exchange)):
            self._has_verdict_event = True
            self._ready.append(event)

    # -- what goes out

    @property
    def _waits_whole(self) -> bool:
        """Whether the response leaves as a whole: a document, whose headers carry the verdict."""
        return self._is_buffered or (self._head_waits and self._head.kind == DOCUMENT)

    def _flush(self) -> None:
        if self.is_over or not self._is_streamed or self._waits_whole or not self._ready:
            return
        content = b"".join(self._ready)
        self._ready.clear()
        self._free(len(content))
        self._send_head()
        self._host.reply(replies.streamed_body(RESPONSE_BODY, content, end=False))

    def _send_head(self) -> None:
        if self._head_waits:
            self._head_waits = False
            self._reply_head()

    def _reply_head(self, verdict: list[tuple[str, str]] | None = None) -> None:
        """The reply to the headers."""
        removing = [METADATA_KEY] if METADATA_KEY in self._names and not verdict else []
        if self._head.is_judged and self._head.rewrites and self._is_streamed:
            removing += [name for name in self._names if name in BODY_DEPENDENT_FIELDS]
        self._host.reply(replies.changed_headers(RESPONSE_HEADERS, verdict or [], removing))

    def _finish(self) -> None:
        """Let go the end of the response, and the body where it waited as a whole."""
        if self.is_over or not self._is_cleared or not self._is_complete:
            return
        if not (self._is_streamed or self._is_buffered):
            self._end_waiting()
            return
        self._end_waiting()
        self._advance()
        if self._is_done or self._head.kind != DOCUMENT:
            self._add_verdict_event()
        self.is_over = not (self._is_buffered and not self._ends_with_trailers)
        verdict = verdict_fields(self.call) if self._waits and self._head.kind == DOCUMENT else []
        content = b"".join(self._ready)
        self._ready.clear()
        self._free(self._size)
        if self._is_buffered:
            self.is_over = True
            self._reply_buffered(content, verdict)
            return
        if self._head_waits:
            self._head_waits = False
            self._reply_head(verdict)
        ends = not self._ends_with_trailers
        if content or ends:
            self._host.reply(replies.streamed_body(RESPONSE_BODY, content, end=ends))
        if not ends:
            self._host.reply(replies.CONTINUE[RESPONSE_TRAILERS])

    def _reply_buffered(self, content: bytes, verdict: list[tuple[str, str]]) -> None:
        if content == self._came:
            self._host.reply(replies.body_with_headers(RESPONSE_BODY, verdict))
            return
        removing = [name for name in self._names if name in BODY_DEPENDENT_FIELDS and name != "content-length"]
        setting = [*verdict, ("content-length", str(len(content)))]
        self._host.reply(replies.replaced_body(RESPONSE_BODY, content, setting, removing))

    # -- acting

    def _ask(self, step: Ask) -> None:
        request = self._request
        assert request is not None
        limit = self._context.max_message
        self._give_up_asking = self._host.ask_http(step, request.again(step.seconds, limit), self._on_answer)

    def _on_answer(self, answer: Answer | None) -> None:
        self._give_up_asking = None
        outcome: Outcome = None
        if answer is not None and (messages := self._exchange.messages_of(*answer)) is not None:
            outcome, body = messages
            self._answer = Reply(answer[0], answer[1], body)
        self._do(self.gate.on_answer(outcome))
        self._flush()

    def _replace(self, instead: Replacement) -> None:
        """Drop what is held, and send `instead` in its place."""
        self._end_waiting()
        answer = self._answer if instead.further else None
        self._waiting_segments.clear()
        if self._is_buffered:
            self._ready.clear()
        self._flush()
        self.is_over = True
        if self._is_buffered or self._head_waits:
            sent = answer if answer is not None else reply(self._exchange, instead)
            fields = [
                field for field in sent.headers if field[0] not in BODY_DEPENDENT_FIELDS and field[0] != METADATA_KEY
            ]
            setting = [*(field for field in fields if field[0] not in HOP_BY_HOP_FIELDS), *verdict_fields(self.call)]
            self._host.reply(replies.immediate(sent.status, sent.body, setting=setting))
        else:
            rest = answer.body if answer is not None else ending(self._exchange, instead)
            self._host.reply(replies.streamed_body(RESPONSE_BODY, rest, end=True))
        self._drop()

    # -- the end

    def _free(self, size: int) -> None:
        size = min(size, self._size)
        self._size -= size
        self._host.memory.release(size)

    def _drop(self) -> None:
        if self._give_up_asking is not None:
            self._give_up_asking()
            self._give_up_asking = None
        self._give_back()
        self._waiting_segments.clear()
        self._ready.clear()
        self._free(self._size)

    def on_closed(self) -> None:
        self._drop()
        if self.gate.state != gates.DONE and self._waits:
            self.gate.close()
        super().on_closed()


HOP_BY_HOP_FIELDS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "date", "server"}
)  # what Envoy writes itself
