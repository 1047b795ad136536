"""A gRPC response that passes as it comes (observe, annotate). In annotate its trailers carry the verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tocsin.ext_proc import replies
from tocsin.ext_proc.context import ExchangeHost, ProcessorContext
from tocsin.ext_proc.grpc_head import DONE, GrpcResponseHead
from tocsin.ext_proc.requests import RESPONSE_HEADERS, RESPONSE_TRAILERS, ProcessingRequest, read_fields
from tocsin.ext_proc.response import JudgedResponse
from tocsin.judgement.call import Call
from tocsin.verdict import METADATA_KEY


class WatchedResponse(JudgedResponse):
    """A response that passes as it comes. In annotate, its trailers wait for the last verdict."""

    __slots__ = ("_annotates", "_last", "_reads", "_removing")

    def __init__(
        self,
        context: ProcessorContext,
        host: ExchangeHost,
        mode: int,
        call: Call,
        *,
        is_observing: bool,
        annotates: bool,
    ) -> None:
        super().__init__(context, host, mode, call, is_observing=is_observing)
        self._annotates = annotates and not is_observing
        self._reads = True
        self._last: tuple[int, GrpcResponseHead] | None = None  # headers or trailers that wait, and what they say
        self._removing: list[str] = []

    @property
    def is_waiting(self) -> bool:
        return self._last is not None

    def on_headers(self, message: ProcessingRequest) -> None:
        head = GrpcResponseHead(read_fields(message.content))
        self._is_begun = not head.foreign
        self._encoding = head.encoding
        if head.foreign:
            self._reads = False
            self._count_foreign(head)
        elif message.end:  # headers alone: a status without a message
            self._end_with(RESPONSE_HEADERS, head)
            return
        if head.verdicts and not self.is_observing:
            self._host.reply(replies.changed_headers(RESPONSE_HEADERS, removing=[METADATA_KEY]))
        else:
            self._pass(message)

    def on_body(self, message: ProcessingRequest) -> None:
        call = self.call
        self._has_body = True
        if self._reads and message.content and (call.streams or not (self._waiting or call.verdict is not None)):
            single = self._single_message(message.content)
            if single is None:
                self._host.work(self._reading(message), len(message.content))
                return
            if call.streams or not self._waiting:
                self._judge_message(single, None)
        self._end_body(message)

    def _reading(self, message: ProcessingRequest) -> Iterator[None]:
        """Judge the messages that a piece of the body completes, one after the other."""
        call = self.call
        for _, content, fault in self._read(message.content):
            if self.is_over:
                return
            if call.streams or not self._waiting:
                self._judge_message(content, fault)
            yield
        if not self.is_over:
            self._end_body(message)

    def _end_body(self, message: ProcessingRequest) -> None:
        """A piece of the body is read."""
        call = self.call
        if message.end and self._reads:
            self._finish_messages("", is_failure=call.streams)
        if self.is_observing and not call.streams and self._waiting:
            self._host.finish()  # more does not concern what is judged, and each of Envoy's open streams is counted
            return
        self._pass(message)

    def on_trailers(self, message: ProcessingRequest) -> None:
        if self._reads:
            self._end_with(RESPONSE_TRAILERS, GrpcResponseHead(read_fields(message.content)))
        else:
            self._pass(message)

    def _end_with(self, kind: int, head: GrpcResponseHead) -> None:
        """The response ends with these headers or trailers."""
        self._is_complete = True
        accepted = self._accepts(head)
        if not accepted and (not self._waiting or self.call.streams or head.grpc_status != DONE):
            self._finish_messages(head.grpc_status, is_failure=head.grpc_status != DONE)
        if self.is_observing:
            self._host.finish()
            return
        self._removing = [METADATA_KEY] if head.verdicts else []
        if self._annotates and self._waiting:
            self._arrived = time.perf_counter()  # what came before did not wait
            self._last = kind, head
            self._limit()
            return
        if self._annotates and self.call.verdict is not None:
            self._context.added(0.0)
        self._arrived = 0.0
        self._tell(kind, head)

    def judged(self, call: Call) -> None:
        self._waiting -= 1
        if self._last is not None and not self._waiting and not self.is_over:
            self._release()

    def on_deadline(self) -> None:
        if self._last is None or self.is_over:
            return
        call = self.call
        call.is_late = call.streams or call.verdict is None
        if call.verdict is None:  # of a stream, what was judged in time counts
            self._late_verdict = self._context.guard.late_verdict(call)
        self._release()

    def _release(self) -> None:
        assert self._last is not None
        (kind, head), self._last = self._last, None
        self._end_waiting()
        self._tell(kind, head)

    def _tell(self, kind: int, head: GrpcResponseHead) -> None:
        """Let go the end of the response, with the verdict in annotate."""
        setting = self._verdict_fields(head.size) if self._annotates else []
        removing = [] if setting else self._removing  # what is set takes the other's place
        change = replies.changed_headers if kind == RESPONSE_HEADERS else replies.changed_trailers
        self._host.reply(self._with_metadata(change(kind, setting, removing)))
