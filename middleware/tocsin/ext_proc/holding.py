"""A gRPC response in enforce: it is held until it is judged, and goes out or is replaced.

Under FULL_DUPLEX_STREAMED its messages go out one by one, and its headers with the first of them. Under BUFFERED its
body goes out as a whole or not at all. The gate decides what may go out; this module writes it as Envoy's messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from tocsin.ext_proc import replies
from tocsin.ext_proc.context import ExchangeHost, ProcessorContext
from tocsin.ext_proc.grpc_head import DONE, GrpcResponseHead, immediate_status, status_fields
from tocsin.ext_proc.held_body import HeldBody
from tocsin.ext_proc.requests import (
    FULL_DUPLEX_STREAMED,
    RESPONSE_BODY,
    RESPONSE_HEADERS,
    RESPONSE_TRAILERS,
    Fields,
    ProcessingRequest,
    read_fields,
)
from tocsin.ext_proc.response import JudgedResponse
from tocsin.grpc_wire.deframer import framed
from tocsin.judgement.actions import END, Actions, Ask, Judge, Outcome, Release, Replace
from tocsin.judgement.call import Call, Fault
from tocsin.judgement.gate import Gate
from tocsin.judgement.outgoing import HOLDING, PASSING
from tocsin.judgement.policy import Replacement, not_grpc
from tocsin.verdict import METADATA_KEY


class HeldResponse(JudgedResponse):
    """A guarded response in enforce. `request_fields` are the request's headers, where it may be sent again."""

    __slots__ = (
        "_body", "_body_ended", "_give_up_asking", "_instead", "_is_cleared", "_is_foreign", "_opened",
        "_request_fields", "_trailing", "gate",
    )  # fmt: skip

    _keeps = True

    def __init__(
        self,
        context: ProcessorContext,
        host: ExchangeHost,
        mode: int,
        call: Call,
        request_fields: Fields,
        *,
        can_retry: bool,
    ) -> None:
        super().__init__(context, host, mode, call, is_observing=False)
        self._body = HeldBody(host, is_streamed=mode == FULL_DUPLEX_STREAMED)
        # Under BUFFERED, the body has to leave before the trailers come with a verdict of somebody else's.
        accepts = context.trusts_verdicts and self._body.is_streamed
        self.gate = Gate(context.guard, call, holds=True, can_retry=can_retry, trusts_verdicts=accepts)
        self._trusts = accepts
        self._request_fields = request_fields
        self._opened = time.monotonic()
        self._trailing: GrpcResponseHead | None = None  # trailers that wait
        self._body_ended = False  # the response ends with its body
        self._is_cleared = False  # the gate has let go everything
        self._is_foreign = False  # what passes is not gRPC
        self._instead: Replacement | None = None  # what took the response's place, of which trailers are to come
        self._give_up_asking: Callable[[], object] | None = None

    @property
    def is_waiting(self) -> bool:
        gate = self.gate
        return gate.awaits_verdict

    # -- what Envoy tells

    def on_headers(self, message: ProcessingRequest) -> None:
        head = GrpcResponseHead(read_fields(message.content))
        self._encoding = head.encoding
        self._is_begun = not head.foreign
        if head.foreign:
            self._count_foreign(head)
            if self._context.guard.fails_closed(self.call):
                self._do(self.gate.replace(not_grpc(head.http_status, head.foreign, self.call.verdict)))
                return
            self._is_foreign = True
            self._do(self.gate.pass_the_rest())
        elif message.end:
            self._on_headers_alone(head)
            return
        reply = replies.changed_headers(RESPONSE_HEADERS, removing=[METADATA_KEY] if head.verdicts else [])
        if self._body.is_streamed and self.gate.state == HOLDING:
            self._body.hold_headers(reply)
        else:
            self._host.reply(reply)

    def _on_headers_alone(self, head: GrpcResponseHead) -> None:
        """The response is a status without a message."""
        self._is_complete = True
        self._do(self.gate.on_end(succeeded=head.grpc_status == DONE))
        if self.is_over:
            return
        self.is_over = True
        setting = self._verdict_fields(head.size)
        removing = [METADATA_KEY] if head.verdicts and not setting else []
        self._host.reply(replies.changed_headers(RESPONSE_HEADERS, setting, removing))

    def on_body(self, message: ProcessingRequest) -> None:
        if self.is_over:
            return
        self._has_body = True
        if not self._body.is_streamed:
            self._body.buffer(message.content)
        if self._instead is None:
            if self.gate.state == PASSING:
                self._body.put([message.content])
            else:
                single = self._single_message(message.content)
                if single is None:
                    self._host.work(self._collecting(message), len(message.content))
                    return
                self._collect(message.content, single, None)
                self._pass_unfinished()
        self._end_body(message)

    def _end_body(self, message: ProcessingRequest) -> None:
        """A piece of the body is read."""
        if message.end or not self._body.is_streamed:
            self._body_ended = message.end
            self._on_complete("")
        self._flush()

    def on_trailers(self, message: ProcessingRequest) -> None:
        if self.is_over:
            return
        self._trailing = GrpcResponseHead(read_fields(message.content))
        if self._is_complete:
            self._finish()
        else:
            self._on_complete(self._trailing.grpc_status)

    def _collecting(self, message: ProcessingRequest) -> Iterator[None]:
        """Take the messages that a piece of the body completes, one after the other."""
        for raw, content, fault in self._read(message.content):
            if self.is_over or self._instead is not None:
                break
            if not raw:
                rest = self._deframer.rest if self._deframer is not None else b""
                self._give_up(fault[0] if fault is not None else "memory", rest)
                break
            self._collect(raw, content, fault)
            yield
        if self.is_over:
            self._is_complete = True
            return
        self._pass_unfinished()
        self._end_body(message)

    def _collect(self, raw: bytes, content: bytes | None, fault: Fault | None) -> None:
        """Take a message."""
        gate = self.gate
        self._body.charge(len(raw))
        if self.call.streams:
            self.count_requests()
        if self._host.memory.lacks_room and gate.expects_more:
            self._give_up("memory", raw)
            return
        self._do(gate.on_message(raw, content, fault))
        if self.call.streams:
            self.count_kept()

    def _give_up(self, reason: str, rest: bytes) -> None:
        """A message is too large to be held; `rest` of it has come."""
        self._do(self.gate.give_up(reason, "a response is larger than what may be held", rest))

    def _pass_unfinished(self) -> None:
        """Nothing is judged any more: pass on what has come of a message."""
        if self.gate.state == PASSING and self._deframer is not None and (rest := self._deframer.unfinished()):
            self._body.put([rest])
            self._flush()

    def _on_complete(self, status: str) -> None:
        """No more messages come."""
        self._is_complete = True
        gate, call, trailing = self.gate, self.call, self._trailing
        if self._deframer is not None and gate.state != PASSING and self._instead is None:
            rest = self._deframer.unfinished()
            # of a call that failed, the status tells that it did
            if rest and (status in (DONE, "") or not self._context.guard.fails_closed(call)):
                self._body.charge(len(rest))
                self._do(gate.pass_unjudged(rest, "the response ends inside a message"))
        if not self.is_over and self._instead is None:
            if trailing is not None and gate.state != PASSING and self._accepts(trailing):
                self._do(gate.on_accepted(succeeded=status == DONE))
            else:
                self._do(gate.on_end(succeeded=status == DONE))
            self._give_back()
        if self._instead is not None:
            self._finish()

    # -- what the gate says

    def judged(self, call: Call) -> None:
        self._do(self.gate.on_verdict(call))

    def on_deadline(self) -> None:
        actions = self.gate.on_deadline()
        self._late_verdict = self.gate.late_verdict
        self._do(actions)
        self._pass_unfinished()

    def _on_answer(self, outcome: Outcome) -> None:
        """A request that was sent once more has been answered, or has failed."""
        self._give_up_asking = None
        self._do(self.gate.on_answer(outcome))

    def _do(self, actions: Actions) -> None:
        """Carry out the gate's actions, in order."""
        for action in actions:
            if action is END:
                self._is_cleared = True
                self._finish()
            elif isinstance(action, Release):
                self._release(action.items)
            elif isinstance(action, Judge):
                self._submit(action.call)
            elif isinstance(action, Replace):
                self._replace(action.instead)
            elif isinstance(action, Ask):
                fields, opened = self._request_fields, self._opened
                self._give_up_asking = self._host.ask(action, fields, opened, self._on_answer)

    def _submit(self, piece: Call) -> None:
        self._arrived = self._arrived or time.perf_counter()
        self._host.submit(piece, self)
        self._limit()

    def _release(self, items: Iterable[bytes]) -> None:
        self._body.put(items)
        if self._body.is_streamed:
            self._flush()
        else:
            self.gate.partially_sent = False  # the body leaves at once: all of it can be withheld still

    def _flush(self) -> None:
        """Send Envoy what may go out."""
        if not self.is_over:
            self._body.flush()

    def _finish(self) -> None:
        """Let go the body, where it was buffered, and the end of the response."""
        if self.is_over or not (self._is_cleared or self._instead is not None) or not self._is_complete:
            return
        self._body.reply_buffered()
        if self._trailing is None and not self._body_ended:
            return
        self._end_waiting()
        self._flush()
        self._body.send_headers()
        self.is_over = True
        if self._trailing is not None:
            self._reply_trailers(self._trailing)
        elif self._body.is_streamed:
            self._host.reply(replies.streamed_body(RESPONSE_BODY, b"", end=True))

    def _reply_trailers(self, trailing: GrpcResponseHead) -> None:
        setting: list[tuple[str, str]] = []
        removing: list[str] = []
        if self._instead is not None:
            setting = status_fields(self._instead)
            stays = {name for name, _ in setting} | {METADATA_KEY}
            removing = [name for name in dict.fromkeys(trailing.names) if name not in stays]  # of what is withheld
        verdict = [] if self._is_foreign else self._verdict_fields(trailing.size)
        if trailing.verdicts and not verdict:
            removing.append(METADATA_KEY)
        reply = replies.changed_trailers(RESPONSE_TRAILERS, setting + verdict, removing)
        self._host.reply(reply if self._is_foreign else self._with_metadata(reply))

    # -- acting

    def _replace(self, instead: Replacement) -> None:
        """Drop what is held, and send `instead` in its place."""
        self._end_waiting()
        self._drop()
        self._body.withhold()
        self._flush()  # what was judged before goes before it
        if not instead.responses and not self._body.has_sent:
            self.is_over = True
            self._host.reply(self._with_metadata(immediate_status(instead, self._verdict_fields)))
            return
        self._instead = instead
        self._body.put([framed(response) for response in instead.responses])
        self._flush()
        self._finish()

    # -- the end

    def _drop(self) -> None:
        """Drop everything that is held."""
        if self._give_up_asking is not None:
            self._give_up_asking()
            self._give_up_asking = None
        if self.call.streams:  # what is not counted any more is not kept either
            self.call.forget()
        self._give_back()
        self._body.release_all()
        if self._deframer is not None:
            self._deframer.forget()

    def on_closed(self) -> None:
        self._drop()
        self.gate.close()
        super().on_closed()
