"""A gRPC response as Envoy reports it: the code shared by responses that pass and responses that are held.

`tocsin.ext_proc.watching` lets responses pass as they come (observe, annotate); `tocsin.ext_proc.holding` holds them.
"""

from __future__ import annotations

import time
from asyncio import TimerHandle
from collections.abc import Iterator
from typing import Final

from tocsin.ext_proc import replies
from tocsin.ext_proc.context import ExchangeHost, ProcessorContext, WaitingResponse
from tocsin.ext_proc.grpc_head import DONE, GrpcResponseHead
from tocsin.ext_proc.misfits import LINES
from tocsin.ext_proc.requests import (
    FULL_DUPLEX_STREAMED,
    NONE,
    RESPONSE_BODY,
    RESPONSE_TRAILERS,
    ProcessingRequest,
)
from tocsin.grpc_wire.deframer import Message, MessageDeframer, framed, whole_message
from tocsin.judgement.accepting import accept_verdict
from tocsin.judgement.call import Call, Fault
from tocsin.protocols.messages import decompress
from tocsin.unscored import Unscored
from tocsin.verdict import FIELD_OVERHEAD, METADATA_KEY, USUAL_LIST_SIZE, Verdict

VERDICT_SIZE: Final = len(METADATA_KEY) + FIELD_OVERHEAD  # of a header list, besides the verdict's text


class ProcessedResponse(WaitingResponse):
    """One response; the base of those that pass and those that are held.

    `mode` is the filter's response_body_mode, `is_observing` its observability_mode, in which Envoy takes no replies.
    `is_over`: nothing more is sent about the response.
    """

    __slots__ = ("_context", "_host", "is_observing", "is_over", "mode")

    def __init__(self, context: ProcessorContext, host: ExchangeHost, mode: int, *, is_observing: bool) -> None:
        self.mode = mode
        self.is_observing = is_observing
        self.is_over = False
        self._context = context
        self._host = host

    @property
    def is_waiting(self) -> bool:
        """Whether Envoy waits for a reply."""
        return False

    def on_headers(self, message: ProcessingRequest) -> None:
        """The response's headers."""
        self._pass(message)

    def on_body(self, message: ProcessingRequest) -> None:
        """A piece of its body."""
        self._pass(message)

    def on_trailers(self, message: ProcessingRequest) -> None:
        """Its trailers."""
        self._pass(message)

    def on_closed(self) -> None:
        """Envoy reports no more of the response, whether it has ended or not."""

    def _pass(self, message: ProcessingRequest) -> None:
        """Let a message pass unchanged."""
        if self.is_observing:
            if message.end or message.kind == RESPONSE_TRAILERS:
                self._host.finish()
        elif message.kind == RESPONSE_BODY and self.mode == FULL_DUPLEX_STREAMED:
            self._host.reply(replies.streamed_body(RESPONSE_BODY, message.content, end=message.end))
        else:
            self._host.reply(replies.CONTINUE[message.kind])


class JudgedResponse(ProcessedResponse):
    """The base of responses that are judged."""

    __slots__ = (
        "_arrived", "_deframer", "_encoding", "_has_body", "_is_begun", "_is_complete", "_kept_bytes",
        "_kept_requests", "_late_verdict", "_timer", "_trusts", "_waiting", "call",
    )  # fmt: skip

    _keeps = False  # what cannot be put together is kept, to be passed on

    def __init__(
        self, context: ProcessorContext, host: ExchangeHost, mode: int, call: Call, *, is_observing: bool
    ) -> None:
        super().__init__(context, host, mode, is_observing=is_observing)
        self.call = call
        self._trusts = context.trusts_verdicts
        self._waiting = 0  # verdicts that are not there yet
        self._arrived = 0.0  # when what waits for verdicts came
        self._timer: TimerHandle | None = None
        self._deframer: MessageDeframer | None = None
        self._encoding = ""
        self._kept_bytes = 0  # of messages that wait to be judged with others, as they were charged
        self._kept_requests = 0
        self._is_begun = False  # its headers have come
        self._has_body = False  # some of its body has come
        self._is_complete = False  # all of it has
        self._late_verdict: Verdict | None = None  # what callers are told where nobody waits for the verdict any more

    @property
    def lacks_body(self) -> bool:
        """Whether a response with status 200 has begun and none of its body has come."""
        return self._is_begun and not self._has_body and not self._is_complete

    @property
    def lacks_trailers(self) -> bool:
        """Whether a response of one message has that message but no trailers."""
        call = self.call
        return not call.streams and not self._is_complete and (self._waiting > 0 or call.verdict is not None)

    # -- messages

    def _single_message(self, body: bytes) -> bytes | None:
        """The message that a piece of the body is, where it is one: the usual case."""
        return whole_message(body, self._context.max_message) if self._deframer is None else None

    def _read(self, body: bytes) -> Iterator[tuple[bytes, bytes | None, Fault | None]]:
        """The messages that a piece of the body completes: each framed, decompressed, and the fault where it cannot be
        read.

        A message that cannot be read ends them if its framed bytes are lost too.
        """
        if self._deframer is None:
            self._deframer = MessageDeframer(self._context.max_message, self._host.memory, keeps=self._keeps)
        for message in self._deframer.feed(body):
            raw = b"" if message.content is None else framed(message.content, compressed=message.compressed)
            content, fault = self._plain(message)
            yield raw, content, fault

    def _plain(self, message: Message) -> tuple[bytes | None, Fault | None]:
        """A message without its compression, or the fault."""
        content = message.content
        try:
            if content is None:
                raise Unscored(message.fault or "memory", "a message was not kept")
            if message.compressed:
                content = decompress(content, self._encoding, self._context.max_message)
        except Unscored as why:
            return None, (why.reason, str(why))
        return content, None

    def _judge_message(self, content: bytes | None, fault: Fault | None) -> None:
        """Take a message of the response, and judge what it completes."""
        call, memory = self.call, self._host.memory
        if call.streams:
            self.count_requests()
            if content is not None and memory.lacks_room:
                content, fault = None, ("memory", "a message was not kept")
        piece = call.on_response_message(content, fault)
        if call.streams:
            self.count_kept()
        if piece is not None and not (self._trusts and piece is call):  # the trailers may bring its verdict
            self._submit(piece)

    def count_kept(self) -> None:
        """Charge the messages that wait to be judged with others, and the requests that wait for responses."""
        self._charge(self.call.kept_bytes - self._kept_bytes)
        self._kept_bytes = self.call.kept_bytes
        self.count_requests()

    def count_requests(self) -> None:
        """Charge the requests that wait for their responses. Where memory is short, drop the oldest."""
        call = self.call
        while call.kept_requests or self._kept_requests:
            self._charge(call.kept_requests - self._kept_requests)
            self._kept_requests = call.kept_requests
            if not self._kept_requests or not self._host.memory.lacks_room or not call.forget_request():
                return

    def _submit(self, piece: Call) -> None:
        self._arrived = self._arrived or time.perf_counter()
        self._waiting += 1
        self._host.submit(piece, self)

    def _finish_messages(self, status: str, *, is_failure: bool) -> bool:
        """No more messages come: judge what was not judged yet. Returns whether the response is missing."""
        call, guard = self.call, self._context.guard
        self._is_complete = True
        if is_failure:
            if call.streams:
                call.forget()
            self._give_back()
            return False  # a failed call has no response to judge; of a stream, what came before counts
        pieces = call.ended()
        self._give_back()
        for piece in pieces:
            self._submit(piece)
        if pieces or call.streams or call.verdict is not None or self._waiting:
            return False
        if call.response is not None or call.fault is not None:  # it waited for the trailers
            self._submit(call)
            return False
        if status != DONE:
            return False
        if not self.count_unsent():
            guard.give_up(call, "no_response", "the call succeeded without a response message")
        return True

    def count_unsent(self) -> bool:
        """Count a response whose body the filter does not send; whether this is one."""
        if self._has_body or not (self.is_observing or self.mode == NONE):
            return False
        self._context.misfits.count("no_body")
        self._context.guard.give_up(self.call, "not_sent", LINES["no_body"])
        return True

    def _accepts(self, head: GrpcResponseHead) -> bool:
        """Whether the trailers carry another Tocsin's verdict that this one accepts."""
        context, call = self._context, self.call
        if not self._trusts or not head.verdicts or call.streams or self._waiting or call.verdict is not None:
            return False
        if not accept_verdict(context.guard, call, head.verdicts[-1], failed=head.grpc_status != DONE):
            context.not_understood["verdict"] += 1
            return False
        context.accepted += 1
        return True

    def _count_foreign(self, head: GrpcResponseHead) -> None:
        """Count a response that is not gRPC. With status 200 it might be a model's answer; with another it is a
        failure.
        """
        self._context.not_understood["not_grpc"] += 1
        if head.http_status == "200":
            self._context.guard.give_up(self.call, "not_grpc", head.foreign)

    # -- the verdict

    def _verdict_fields(self, size: int, verdict: Verdict | None = None) -> list[tuple[str, str]]:
        """The verdict as a header field, shortened to what a list with `size` bytes leaves room for."""
        verdict = verdict or self._late_verdict or self.call.verdict
        if verdict is None:
            return []
        text = verdict.to_metadata()
        room = USUAL_LIST_SIZE - VERDICT_SIZE - size
        if len(text) > room:
            shorter = verdict.shortened(room)
            self._context.cut_verdicts["left_out" if shorter is None else "shortened"] += 1
            if shorter is None:
                return []
            text = shorter
        return [(METADATA_KEY, text)]

    def _with_metadata(self, reply: bytes) -> bytes:
        """A reply, with the verdict as dynamic metadata where that is configured."""
        verdict, namespace = self._late_verdict or self.call.verdict, self._context.namespace
        if not namespace or verdict is None:
            return reply
        facts = {"verdict": verdict.to_metadata(), "action": verdict.action, "model": verdict.model}
        return replies.with_metadata(reply, namespace, facts)

    # -- the end

    def _limit(self) -> None:
        """Start the scoring budget."""
        if self._timer is None:
            self._timer = self._host.limit(self, self.call)

    def _end_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._arrived:
            self._context.added(time.perf_counter() - self._arrived)
            self._arrived = 0.0

    def _charge(self, size: int) -> None:
        if size > 0:
            self._host.memory.charge(size)
        elif size:
            self._host.memory.release(-size)

    def _give_back(self) -> None:
        """Release what was kept to be judged."""
        self._charge(-self._kept_bytes - self._kept_requests)
        self._kept_bytes = self._kept_requests = 0

    def on_closed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.is_over = True
        if self._kept_requests:
            self.call.forget_requests()
        self._give_back()
        if self._deframer is not None:
            self._deframer.forget()
        if self.call.streams:
            self._context.guard.on_call_closed(self.call)
