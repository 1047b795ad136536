"""A response of an HTTP protocol (a JSON document or a stream of events) that Envoy reports: judged, held or replaced.

Under BUFFERED the body comes and goes as a whole. Under FULL_DUPLEX_STREAMED a document waits until it is complete,
with its headers, and a stream goes event by event. The gate decides what may go out; this module writes it as Envoy's
messages.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Iterator
from typing import Final

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.gated import GatedResponse
from tocsin.exchange.replies import ending, reply, verdict_fields
from tocsin.exchange.sending import go_on
from tocsin.exchange.treatment import DOCUMENT
from tocsin.ext_proc import replies
from tocsin.ext_proc.context import ExchangeHost, HttpRequest, ProcessorContext
from tocsin.ext_proc.http_replies import body_replies, buffered_reply, head_reply, immediate_reply
from tocsin.ext_proc.misfits import LINES
from tocsin.ext_proc.requests import (
    BUFFERED,
    FULL_DUPLEX_STREAMED,
    RESPONSE_BODY,
    RESPONSE_TRAILERS,
    Fields,
    ProcessingRequest,
    read_fields,
)
from tocsin.ext_proc.response import JudgedResponse
from tocsin.judgement import outgoing
from tocsin.judgement.actions import Ask
from tocsin.judgement.call import Call
from tocsin.judgement.policy import Replacement, failed_closed
from tocsin.outbound_http import Answer
from tocsin.verdict import METADATA_KEY

STREAM_SLICE: Final = 1 << 12  # bytes of a stream that are read at once: each of its events costs as much as a document


class HttpResponse(JudgedResponse):
    """A guarded response. `request` is the request to send again, None where it is not known."""

    __slots__ = (
        "_annotates", "_came", "_ends_with_trailers", "_exchange", "_gated", "_has_head", "_head_waits",
        "_is_buffered", "_is_streamed", "_names", "_request",
    )  # fmt: skip

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
        self._annotates = annotates
        self._is_streamed = mode == FULL_DUPLEX_STREAMED
        self._is_buffered = mode == BUFFERED
        tells, retries = annotates or holds, request is not None
        self._gated = GatedResponse(
            exchange, host.memory, context.added, holds=holds, annotates=tells, can_retry=retries
        )
        self._gated.keeps = self._is_streamed or self._is_buffered  # else it passes as it comes
        self._has_head = False  # the filter sends response headers
        self._names: list[str] = []  # of the response's headers
        self._head_waits = False  # the headers' reply has not left
        self._came = b""  # the body, where it was buffered
        self._ends_with_trailers = False

    @property
    def is_waiting(self) -> bool:
        gated = self._gated
        return gated.annotates and gated.gate.awaits_verdict and not self.is_over

    @property
    def lacks_trailers(self) -> bool:
        return False

    # -- what Envoy tells

    def on_headers(self, message: ProcessingRequest) -> None:
        gated = self._gated
        self._has_head = True
        fields = read_fields(message.content)
        self._names = [name for name, _ in fields]
        status = next((value for name, value in fields if name == ":status"), "")
        head = gated.begin(int(status) if status.isdigit() else 0, fields)
        self._is_begun = head.is_judged
        if head.is_judged and message.end:
            self._end_without_body(message)
            return
        self._accept(fields)
        delays_head = gated.holds or head.rewrites or (self._annotates and head.kind == DOCUMENT)
        self._head_waits = head.is_judged and self._is_streamed and delays_head
        if head.is_judged and not self.is_observing and self._annotates and not gated.keeps:
            self._context.misfits.count("not_told")
        if self.is_observing:
            self._pass(message)
        elif not self._head_waits:
            self._reply_head()

    def _end_without_body(self, message: ProcessingRequest) -> None:
        """The response has headers alone."""
        gated = self._gated
        self._is_complete = True
        gated.end([])
        if gated.instead is not None:
            self._head_waits = True  # nothing has left
            self.replace(gated.instead)
            return
        gated.finish()
        if self.is_observing:
            self._pass(message)
        else:
            self._reply_head(verdict_fields(self.call) if gated.keeps else [])
        self.is_over = True

    def _accept(self, fields: Fields) -> None:
        """Accept another Tocsin's verdict, where that is configured and the response has one message."""
        texts = [value for name, value in fields if name == METADATA_KEY]
        if not self._trusts or not texts or not self._gated.may_accept:
            return
        if self._gated.accept(texts[-1]):
            self._context.accepted += 1
        else:
            self._context.not_understood["verdict"] += 1

    def on_body(self, message: ProcessingRequest) -> None:
        self._has_body = True
        if self.is_over:
            return
        if not self._has_head and self._refuses_headless():
            return
        gated = self._gated
        if not gated.treatment.is_judged:
            self._pass(message)
            return
        if self._is_buffered:
            self._came = message.content
        content = message.content
        if len(content) > STREAM_SLICE and gated.treatment.kind != DOCUMENT:
            self._host.work(self._reading(message), len(content))
            return
        self._read_piece(message, content)

    def _reading(self, message: ProcessingRequest) -> Iterator[None]:
        """Read a piece of a stream, slice by slice."""
        content = message.content
        last = (len(content) - 1) // STREAM_SLICE * STREAM_SLICE
        for at in range(0, last, STREAM_SLICE):
            if self.is_over:
                return
            self._gated.take(self._exchange.on_response_chunk(content[at : at + STREAM_SLICE]))
            go_on(self._gated, self)
            yield
        if not self.is_over:
            self._read_piece(message, content[last:])

    def _read_piece(self, message: ProcessingRequest, content: bytes) -> None:
        """Read the last of a piece of the body, and let the piece pass where it may at once."""
        gated = self._gated
        segments = self._exchange.on_response_chunk(content) if content else []
        if message.end or self._is_buffered:
            self._is_complete = True
            gated.end(segments + self._exchange.on_response_end())
        else:
            gated.take(segments)
        go_on(self._gated, self)
        if not gated.keeps:  # it passes as it comes
            self._pass(message)

    def _refuses_headless(self) -> bool:
        """A body whose headers do not come cannot be read: it is counted once. Whether it was refused."""
        self._has_head = True
        guard, call = self._context.guard, self.call
        call.model = guard.model_of(call)
        self._context.misfits.count("no_headers")
        guard.give_up(call, "not_sent", LINES["no_headers"])
        self._gated.gate.close()
        if self.is_observing or not (self._gated.holds and guard.fails_closed(call)):
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
        if not self._gated.treatment.is_judged or not self._is_streamed:
            self._pass(message)
            return
        self._is_complete = True
        self._gated.end(self._exchange.on_response_end())
        go_on(self._gated, self)

    # -- what the gate says

    def judged(self, call: Call) -> None:
        self._gated.on_verdict(call)
        self._host.go_on_later(self)

    def go_on(self) -> None:
        go_on(self._gated, self)

    def on_deadline(self) -> None:
        self._gated.on_deadline()
        go_on(self._gated, self)

    def _on_answer(self, answer: Answer | None) -> None:
        self._gated.on_answer(answer)
        go_on(self._gated, self)

    def submit(self, call: Call) -> None:
        """Have a call judged."""
        self._host.submit(call, self)

    def limit(self) -> TimerHandle | None:
        """Start the scoring budget."""
        return self._host.limit(self, self.call)

    def ask(self, step: Ask) -> None:
        """Send the request once more."""
        request = self._request
        assert request is not None
        limit = self._context.max_message
        self._gated.wait_for_answer(self._host.ask_http(step, request.again(step.seconds, limit), self._on_answer))

    # -- what goes out

    def flush(self) -> None:
        """Send what may go on before the end. A document leaves as a whole: its headers carry the verdict."""
        gated = self._gated
        if not self._is_streamed or (self._head_waits and gated.treatment.kind == DOCUMENT):
            return
        content = gated.take_ready()
        self._send_head()
        self._send_body(content, end=False)

    def _send_body(self, content: bytes, *, end: bool) -> None:
        for piece in body_replies(content, end=end):
            self._host.reply(piece)

    def _send_head(self) -> None:
        if self._head_waits:
            self._head_waits = False
            self._reply_head()

    def _reply_head(self, verdict: list[tuple[str, str]] | None = None) -> None:
        """The reply to the headers."""
        treatment = self._gated.treatment
        is_rewritten = treatment.is_judged and treatment.rewrites and self._is_streamed
        self._host.reply(head_reply(self._names, verdict or [], is_rewritten=is_rewritten))

    def finish(self) -> None:
        """Let go the end of the response, and the body where it waited as a whole."""
        gated = self._gated
        gated.finish()
        if not gated.keeps:
            return
        self.is_over = True
        verdict = verdict_fields(self.call) if gated.annotates and gated.treatment.kind == DOCUMENT else []
        content = gated.take_ready()
        gated.free_all()
        if self._is_buffered:
            self._host.reply(buffered_reply(content, self._came, self._names, verdict))
            return
        if self._head_waits:
            self._head_waits = False
            self._reply_head(verdict)
        ends = not self._ends_with_trailers
        if content or ends:
            self._send_body(content, end=ends)
        if not ends:
            self._host.reply(replies.CONTINUE[RESPONSE_TRAILERS])

    def replace(self, instead: Replacement) -> None:
        """Drop what is held, and send `instead` in its place."""
        gated = self._gated
        answer = gated.answer
        if self._is_buffered:
            gated.drop_ready()
        if gated.has_ready:
            self.flush()
        self.is_over = True
        if self._is_buffered or self._head_waits:
            sent = answer if answer is not None else reply(self._exchange, instead)
            self._host.reply(immediate_reply(sent, verdict_fields(self.call)))
        else:
            rest = answer.body if answer is not None else ending(self._exchange, instead)
            self._host.reply(replies.streamed_body(RESPONSE_BODY, rest, end=True))
        gated.drop()

    # -- the end

    def on_closed(self) -> None:
        gated = self._gated
        gated.drop()
        if gated.gate.state != outgoing.DONE and gated.annotates:
            gated.gate.close()
        super().on_closed()
