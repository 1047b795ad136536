"""A guarded response on its way to the caller, in HTTP/1.1: it passes while it is judged, or waits until it is.

A response takes one of three ways. PASSING: its bytes go on as they came (observe; whatever is not judged). BUFFERED:
head and body wait until the document is judged, then they go on as they came, with the verdict in the head. STREAMED:
events go on one by one, in chunks of the relay's own. The gate says what may go; this sends it.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Sequence
from typing import Final

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.gated import GatedResponse
from tocsin.exchange.replies import Reply, ending, reply, tells_by_event, verdict_fields
from tocsin.exchange.sending import go_on
from tocsin.exchange.treatment import DOCUMENT
from tocsin.http_relay.bodies import Body, ChunkedBody
from tocsin.http_relay.heads import Http1Request, ResponseHead
from tocsin.http_relay.hosts import RelayedResponse, ResponseHost
from tocsin.http_relay.replies import refusal, written
from tocsin.http_relay.writing import ResponseWriter
from tocsin.judgement.actions import Ask
from tocsin.judgement.call import Call
from tocsin.judgement.policy import Replacement
from tocsin.outbound_http import Answer, HttpCall
from tocsin.relay.context import RelayContext
from tocsin.verdict import METADATA_KEY

PASSING: Final = 0
BUFFERED: Final = 1
STREAMED: Final = 2
STREAM_SLICE: Final = 1 << 12  # bytes of a stream that are read at once: each of its events costs as much as a document
LOST: Final = "the upstream closed the connection in the middle of its response"


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
        holds, annotates, retries = context.enforces, context.annotates, again is not None
        gated = GatedResponse(exchange, host.memory, context.added, holds=holds, annotates=annotates, can_retry=retries)
        self._gated = gated
        self._writer = ResponseWriter(request, head)
        self._way = PASSING
        self._head_waits = False
        self._raw: list[bytes] = []  # of a BUFFERED response, as it came

    # -- what comes

    def on_head(self) -> None:
        head, gated = self._head, self._gated
        treatment = gated.begin(head.status, head.fields)
        self._writer.rewrites = treatment.rewrites
        self._accept()
        if treatment.is_judged:
            is_document = treatment.kind == DOCUMENT
            if not is_document:
                self.slice_size = STREAM_SLICE
            if treatment.rewrites or gated.holds or (gated.annotates and is_document):
                self._way = BUFFERED if is_document else STREAMED
            elif gated.annotates and (tells_by_event(self._exchange) or self._tells_by_trailer):
                self._way = STREAMED
        if self._way == PASSING:
            gated.is_cleared = True
        gated.keeps = self._way != PASSING
        gated.charges = self._way == STREAMED  # what is buffered is charged as it comes
        self._head_waits = self._way == BUFFERED or (self._way == STREAMED and gated.holds)
        if not self._head_waits:
            self._send_head()

    @property
    def _tells_by_trailer(self) -> bool:
        """Whether the verdict goes out behind the last chunk."""
        gated = self._gated
        return gated.annotates and self._request.takes_trailers and gated.treatment.kind != DOCUMENT

    def _accept(self) -> None:
        """Take the verdict that was made behind, where that is configured, of a response of one message."""
        context, text = self._context, self._head.value(METADATA_KEY)
        if not text or not context.trusts_verdicts or not self._gated.may_accept:
            return
        if self._gated.accept(text):
            context.accepted += 1
        else:
            context.not_understood["verdict"] += 1

    def on_body(self, raw: bytes, content: bytes) -> None:
        if self.is_over:
            return
        if self._way == PASSING:
            self._host.write(raw)
            if not self._gated.treatment.is_judged:
                return
        elif self._way == BUFFERED:
            self._raw.append(raw)
            self._gated.charge(len(raw) if content is raw else len(raw) + len(content))
        if content:
            segments = self._exchange.on_response_chunk(content)
            if segments or self._way != BUFFERED:  # else the document is not complete, and waits as it was charged
                self._gated.take(segments)
                go_on(self._gated, self)

    def on_end(self) -> None:
        if self.is_over:
            return
        if isinstance(self._body, ChunkedBody):
            self._body.drop_trailers((METADATA_KEY,))
        if self._way == PASSING and (ending := self._body.ending):
            self._host.write(ending)
        elif self._way == BUFFERED:
            self._raw.append(self._body.ending)
        if self._gated.treatment.is_judged:
            self._gated.end(self._exchange.on_response_end())
        else:
            self._gated.is_complete = True
        go_on(self._gated, self)

    def on_lost(self) -> None:
        if self.is_over:
            return
        if self._way != BUFFERED and self._gated.treatment.is_judged:
            self._gated.lose()
            go_on(self._gated, self)
        if self.is_over or self._way == STREAMED:  # a stream ends once what has come of it is judged
            return
        self._lose()

    def on_gone(self) -> None:
        self.is_over = True
        if self._way != PASSING:
            self._gated.gate.close()
        self._drop()

    # -- what the gate says

    def judged(self, call: Call) -> None:
        """A call has its verdict."""
        self._gated.on_verdict(call)
        go_on(self._gated, self)

    def _on_deadline(self) -> None:
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
        return self._host.limit(self._gated.call, self._on_deadline)

    def ask(self, step: Ask) -> None:
        """Send the request once more."""
        assert self._again is not None
        request = self._again._replace(seconds=step.seconds)
        self._gated.wait_for_answer(self._host.ask(step, request, self._on_answer))

    # -- what goes out

    def flush(self) -> None:
        """Send what may go on before the end. A document goes on as a whole."""
        gated = self._gated
        if self._way == BUFFERED:
            if not gated.is_complete:
                self._let_go()
            return
        if content := gated.take_ready():
            if self._head_waits:
                self._send_head()
            self._host.write(self._writer.part(content))

    def _let_go(self) -> None:
        """The document is too large to be read: it passes."""
        gated = self._gated
        self._way = STREAMED if gated.treatment.rewrites else PASSING
        self._send_head()
        if self._way == PASSING:
            gated.keeps = False
            gated.drop_ready()
            self._host.write(b"".join(self._raw))
        self._raw.clear()
        gated.free_all()
        if self._way == STREAMED:
            gated.charges = True
            self.flush()

    def _send_head(self) -> None:
        self.is_begun = True
        self._head_waits = False
        closes, writer = self._host.closes_after(), self._writer
        is_streamed, has_trailer = self._way == STREAMED, self._tells_by_trailer
        head = (
            writer.stream_head(has_trailer=has_trailer, closes=closes)
            if is_streamed
            else writer.whole_head(closes=closes)
        )
        self._host.write(head)

    def finish(self) -> None:
        """Let the body go where it waited whole, and the end."""
        gated = self._gated
        gated.finish()
        if self._way == PASSING:
            if gated.is_lost:
                self._lose()
            else:
                self._done()
        elif self._way == STREAMED:
            self.flush()
            if gated.is_lost:
                self._lose()
                return
            if self._head_waits:
                self._send_head()
            self._end_stream(b"", self._body.trailers)
        else:
            self._send_whole()

    def _send_whole(self) -> None:
        gated, content, length = self._gated, b"".join(self._raw), None
        verdict = verdict_fields(gated.call) if gated.annotates else []
        if gated.treatment.rewrites:
            content = gated.take_ready()
            length = len(content)
        self.is_begun = True
        self._host.write(self._writer.whole_head(verdict, length, closes=self._host.closes_after()) + content)
        self._done()

    def _end_stream(self, content: bytes, trailers: Sequence[tuple[str, str]]) -> None:
        """Write the last of a stream, and its end."""
        writer = self._writer
        if content := writer.last(content, trailers, verdict_fields(self._gated.call)):
            self._host.write(content)
        self._done(closes=writer.ends_by_close)

    def _send_reply(self, sent: Reply, verdict: Sequence[tuple[str, str]] = ()) -> None:
        """Answer with this in place of the upstream's response, of which nothing was sent; `verdict` are more fields of
        its head.
        """
        self.is_begun = True
        self._head_waits = False
        self._host.write(written(sent, self._request, closes=self._host.closes_after(replaces=True), more=verdict))
        self._done()

    def replace(self, instead: Replacement) -> None:
        """Drop what is held, and send this in its place."""
        gated, answer = self._gated, self._gated.answer
        if self._way == BUFFERED:
            gated.drop_ready()
        elif gated.has_ready:
            self.flush()
        if self._head_waits:
            self._send_reply(answer or reply(self._exchange, instead), verdict_fields(gated.call))
        elif self._way == STREAMED:
            self._end_stream(answer.body if answer is not None else ending(self._exchange, instead), [])
        else:  # it has gone on in part, as it came
            self._abort()

    # -- the end

    def _lose(self) -> None:
        """There is no end to be sent: the caller hears of that, or sees the connection end."""
        if self._head_waits:
            self._send_reply(refusal(502, "UPSTREAM", LOST))
        else:
            self._abort()

    def _done(self, *, closes: bool = False) -> None:
        self.is_over = True
        self._drop()
        self._host.on_response_done(closes=closes)

    def _abort(self) -> None:
        self.is_over = True
        self._drop()
        self._host.abort_response()

    def _drop(self) -> None:
        self._raw.clear()
        self._gated.drop()
