"""A gRPC response that goes out once it is judged, or something else in its place.

Under FULL_DUPLEX_STREAMED its messages go out one by one, and its headers with the first of them; under BUFFERED its
body goes out at once, or not at all.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable
from urllib.parse import quote

from tocsin.ext_proc import replies
from tocsin.ext_proc.context import ExchangeHost, ProcessorContext, Retried
from tocsin.ext_proc.requests import (
    FULL_DUPLEX_STREAMED,
    RESPONSE_BODY,
    RESPONSE_HEADERS,
    RESPONSE_TRAILERS,
    Fields,
    ProcessingRequest,
    read_fields,
)
from tocsin.ext_proc.response import DONE, JudgedResponse, ResponseHead
from tocsin.grpc_wire.deframer import framed
from tocsin.judgement.call import Call
from tocsin.judgement.enforcement import enforcement_steps, goes_out
from tocsin.judgement.policy import DETAILS_KEY, Replacement, failed_closed, not_grpc
from tocsin.verdict import METADATA_KEY

COLLECTING, PASSING, REPLACED, FINISHED = range(4)
UNESCAPED = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # what a status message need not percent-encode


class HeldResponse(JudgedResponse, Retried):
    """A guarded response in enforce.

    COLLECTING: messages wait in their order, each until the judgement that covers it. PASSING: the rest goes out
    unjudged. REPLACED: something else went out, and what still comes is dropped. FINISHED: nothing more is said.
    `request_fields` are the request's headers, where it may be sent again.
    """

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
        self.request_fields = request_fields
        self.opened = time.monotonic()
        self._trusts = self._trusts and mode == FULL_DUPLEX_STREAMED  # else trailers come when the body has left
        self._state = COLLECTING
        self._is_streamed = mode == FULL_DUPLEX_STREAMED
        self._can_retry = can_retry
        self._head_reply: bytes | None = None  # to the headers, which leave with the first message
        self._messages: deque[bytes] = deque()  # framed, in their order
        self._first = 0  # the place of the first of them in the response
        self._cleared: set[int] = set()  # places of those that may go
        self._size = 0  # bytes that wait, as they were charged
        self._ready: list[bytes] = []  # what may go out, and has not left yet
        self._came = 0  # messages so far
        self._partially_sent = False
        self._body: bytes | None = None  # as it came, where it came at once and its reply waits
        self._trailing: ResponseHead | None = None  # trailers that wait
        self._body_ended = False  # the response ends with its body
        self._is_foreign = False  # what passes is not gRPC
        self._instead: Replacement | None = None
        self._deferred: list[tuple[Call, bytes | None]] = []  # judged while somebody is asked, with their response
        self._give_up_asking: Callable[[], object] | None = None

    @property
    def is_waiting(self) -> bool:
        return self._state == COLLECTING and (self._waiting > 0 or self._give_up_asking is not None)

    # -- what Envoy tells

    def on_headers(self, message: ProcessingRequest) -> None:
        head = ResponseHead(read_fields(message.content))
        self._encoding = head.encoding
        self._is_begun = not head.foreign
        removing = [METADATA_KEY] if head.verdicts else []
        if head.foreign:
            self._count_foreign(head)
            if self._context.guard.closed(self.call):
                self._context.guard.acted(self.call, "refused")
                self._replace(not_grpc(head.http_status, head.foreign, self.call.verdict))
                return
            self._state, self._is_foreign = PASSING, True
        elif message.end:
            self._on_headers_alone(head)
            return
        reply = replies.changed_headers(RESPONSE_HEADERS, removing=removing)
        if self._is_streamed and self._state == COLLECTING:
            self._head_reply = reply
        else:
            self._host.reply(reply)

    def _on_headers_alone(self, head: ResponseHead) -> None:
        """A status without a message."""
        is_missing = self._finish_messages(head.grpc_status, is_failure=head.grpc_status != DONE)
        if is_missing and self._context.guard.closed(self.call):
            self._refuse(self.call)
            return
        self._state = FINISHED
        setting = self._verdict_fields(head.size)
        removing = [METADATA_KEY] if head.verdicts and not setting else []
        self._host.reply(replies.changed_headers(RESPONSE_HEADERS, setting, removing))

    def on_body(self, message: ProcessingRequest) -> None:
        self._has_body = True
        if self._state == FINISHED:
            return
        if self._state == COLLECTING:
            if not self._is_streamed:
                self._body = message.content
            self._collect(message.content)
        elif self._state == PASSING:
            if self._is_streamed:
                self._ready.append(message.content)
            else:
                self._host.reply(replies.CONTINUE[RESPONSE_BODY])
                return
        if message.end or not self._is_streamed:
            self._body_ended = message.end
            self._on_complete("")
        self._flush()

    def on_trailers(self, message: ProcessingRequest) -> None:
        if self._state == FINISHED:
            return
        head = self._trailing = ResponseHead(read_fields(message.content))
        if self._is_complete or self._state == REPLACED:
            self._is_complete = True
            self._end_when_clear()
        else:
            self._on_complete(head.grpc_status)

    def _collect(self, body: bytes) -> None:
        for raw, content, fault in self._read(body):
            if self._state == PASSING:  # since a message before this one
                self._ready.append(raw)
                continue
            if self._state != COLLECTING:
                return
            if not raw:
                rest = self._deframer.rest if self._deframer is not None else b""
                self._cannot_hold(fault[0] if fault is not None else "memory", rest)
                return
            if self._came and not self.call.streams:
                self._pass_unjudged(raw, "a response of one message has a second one")
                continue
            self._keep(raw)
            if self._host.memory.lacks_room:
                self._cannot_hold("memory", b"")
                return
            self._judge_message(content, fault)
        if self._state == PASSING and self._deframer is not None and (rest := self._deframer.unfinished()):
            self._ready.append(rest)

    def _keep(self, raw: bytes) -> None:
        self._came += 1
        self._messages.append(raw)
        self._size += len(raw)
        self._host.memory.charge(len(raw))

    def _submit(self, piece: Call) -> None:
        super()._submit(piece)
        self._limit()

    def _on_complete(self, status: str) -> None:
        """No more messages come."""
        call, guard = self.call, self._context.guard
        if self._state == COLLECTING:
            rest = self._deframer.unfinished() if self._deframer is not None else b""
            if rest and (status in (DONE, "") or not guard.closed(call)):  # else the status tells that it failed
                self._pass_unjudged(rest, "the response ends inside a message")
        if self._state == COLLECTING:
            if self._trailing is not None and self._accepts(self._trailing):
                self._is_complete = True
                if status == DONE:
                    self._decide(call)
                    return
            elif self._finish_messages(status, is_failure=False) and guard.closed(call):
                self._refuse(call)
                return
        self._is_complete = True
        self._end_when_clear()

    # -- verdicts

    def judged(self, call: Call) -> None:
        self._waiting = max(0, self._waiting - 1)
        if self._state != COLLECTING or self.is_over:
            return
        if self._give_up_asking is not None:  # what becomes of the response is not known yet
            self._deferred.append((call, call.response))
            return
        self._decide(call)

    def _decide(self, call: Call) -> None:
        verdict = call.verdict
        if verdict is not None:  # who only records gives none
            if not goes_out(call):
                self._act(call)
                return
            self._context.guard.acted(call, verdict.action)
        self._clear(call)

    def late(self) -> None:
        if self._state != COLLECTING or not self._waiting or self._give_up_asking is not None or self.is_over:
            return
        self.call.late = True
        self._waiting = 0
        guard = self._context.guard
        late = guard.late(self.call)
        if guard.closed(self.call):
            self._late = late
            guard.acted(self.call, "refused")
            self._replace(failed_closed(late))
            return
        if self.call.verdict is None:  # of a stream, what was judged in time counts
            self._late = late
        self._pass_the_rest()
        self._end_when_clear()

    def _clear(self, call: Call) -> None:
        """What a call covers may go out."""
        call.on_forwarded()
        self._release(call.message_indices)
        self._end_when_clear()

    def _release(self, places: Iterable[int]) -> None:
        """Let go these messages, as far as there are none before them that may not."""
        messages, cleared = self._messages, self._cleared
        cleared.update(places)
        size = 0
        while messages and self._first in cleared:
            cleared.discard(self._first)
            self._first += 1
            raw = messages.popleft()
            size += len(raw)
            self._ready.append(raw)
        self._free(size)
        self._flush()

    def _pass_unjudged(self, raw: bytes, what: str) -> None:
        """Something came that is no part of a response to be judged: it goes out behind what is, or nothing does."""
        guard = self._context.guard
        _, (unjudged, *_) = self.call.answered_anew(None, (b"",))
        unjudged.model = guard.model_of(self.call)
        guard.give_up(unjudged, "undecodable", what)
        if guard.closed(unjudged):
            self._refuse(unjudged)
            return
        if not self._came:
            self.call.verdict = unjudged.verdict
        place = self._first + len(self._messages)
        self._keep(raw)
        self._release((place,))

    def _cannot_hold(self, reason: str, rest: bytes) -> None:
        """A message is too large to be held: it and all that follows pass, or nothing does."""
        guard = self._context.guard
        guard.give_up(self.call, reason, "a response is larger than what may be held")
        if guard.closed(self.call) or self._give_up_asking is not None:  # what is withheld must not pass with it
            self._refuse(self.call)
            return
        self._pass_the_rest()
        if rest:
            self._ready.append(rest)

    def _pass_the_rest(self) -> None:
        """Nothing more of this call is judged."""
        self._state = PASSING
        self._ready += self._messages
        self._messages.clear()
        self._free(self._size)
        if self._deframer is not None and (rest := self._deframer.unfinished()):
            self._ready.append(rest)
        if self.call.streams:
            self.call.forget()
        self._flush()

    # -- what goes out

    def _flush(self) -> None:
        """Send Envoy what may go out."""
        if not self._is_streamed or not self._ready or self._state == FINISHED:
            return
        content = b"".join(self._ready)
        self._ready.clear()
        if content:
            self._send_head()
            self._partially_sent = True
            self._host.reply(replies.streamed_body(RESPONSE_BODY, content, end=False))

    def _send_head(self) -> None:
        if self._head_reply is not None:
            self._host.reply(self._head_reply)
            self._head_reply = None

    def _end_when_clear(self) -> None:
        """Let the body go where it was buffered, and the trailers, once nothing before them waits."""
        if not self._is_complete or self._state == FINISHED:
            return
        if self._state == COLLECTING and (self._waiting or self._give_up_asking is not None or self._deferred):
            return
        if self._body is not None:
            content, came = b"".join(self._ready), self._body
            self._ready.clear()
            self._body = None
            self._reply_body(content, came)
        if self._trailing is None and not self._body_ended:
            return
        self._end_waiting()
        self._flush()
        self._send_head()
        state, self._state = self._state, FINISHED
        if self._trailing is None:
            if self._is_streamed:
                self._host.reply(replies.streamed_body(RESPONSE_BODY, b"", end=True))
            return
        if state == REPLACED and self._instead is not None:
            setting = _status_fields(self._instead)
            stays = {name for name, _ in setting} | {METADATA_KEY}
            removing = [
                name for name in dict.fromkeys(self._trailing.names) if name not in stays
            ]  # of what is withheld
        else:
            setting, removing = [], []
        setting += [] if self._is_foreign else self._verdict_fields(self._trailing.size)
        if self._trailing.verdicts and all(name != METADATA_KEY for name, _ in setting):
            removing.append(METADATA_KEY)
        self._host.reply(replies.changed_trailers(RESPONSE_TRAILERS, setting, removing))

    def _reply_body(self, content: bytes, came: bytes) -> None:
        """The reply to a body that was buffered."""
        if content == came:
            self._host.reply(replies.CONTINUE[RESPONSE_BODY])
        else:
            self._host.reply(replies.replaced_body(RESPONSE_BODY, content, removing=["content-length"]))

    # -- acting

    def _act(self, call: Call) -> None:
        """Do what the verdict asks for: at once, or by a task where somebody must be asked."""
        steps = enforcement_steps(
            self._context.guard, call, partially_sent=self._partially_sent, can_retry=self._can_retry
        )
        try:
            first = next(steps)
        except StopIteration as done:
            self.acted(done.value, call)
        else:
            self._can_retry = False
            self._give_up_asking = self._host.run(steps, first, call, self)

    def acted(self, instead: Replacement | None, call: Call) -> None:
        """It is known what goes out in place of what `call` covers, None for itself."""
        self._give_up_asking = None
        if self._state != COLLECTING or self.is_over:
            return
        if instead is not None:
            self._replace(instead)
            return
        self._clear(call)
        while self._deferred and self._give_up_asking is None and self._state == COLLECTING:
            another, response = self._deferred.pop(0)
            another.response = response
            self._decide(another)
            another.forget()

    def _refuse(self, call: Call) -> None:
        self._context.guard.acted(call, "refused")
        if call.verdict is not None:
            self.call.conclude(call.verdict)
        self._replace(failed_closed(call.verdict))

    def _replace(self, instead: Replacement) -> None:
        """Drop what is held, and send this in its place."""
        self._end_waiting()
        self._drop()
        if self._is_streamed:
            self._flush()  # what was judged before goes before it
        else:
            self._ready.clear()
        if not instead.responses and not self._partially_sent:
            self._state = FINISHED
            details = [(DETAILS_KEY, _binary(instead.details))] if instead.details else []
            size = len(instead.message) + sum(len(name) + len(value) for name, value in details) + 256
            setting = [*details, *self._verdict_fields(size)]
            status, message = instead.status.value[0], instead.message.encode()
            self._host.reply(replies.immediate(200, message, grpc_status=status, setting=setting))
            return
        self._state = REPLACED
        self._instead = instead
        self._ready += [framed(response) for response in instead.responses]
        self._flush()
        self._end_when_clear()

    # -- the end

    def _drop(self) -> None:
        """Nothing is held any more."""
        if self._give_up_asking is not None:
            self._give_up_asking()
            self._give_up_asking = None
        if self._kept_requests:
            self.call.forget_requests()
        self._give_back()
        self._messages.clear()
        self._deferred.clear()
        self._free(self._size)
        if self._deframer is not None:
            self._deframer.forget()

    def _free(self, size: int) -> None:
        if size:
            self._size -= size
            self._host.memory.release(size)

    def on_closed(self) -> None:
        self._drop()
        super().on_closed()


def _binary(content: bytes) -> str:
    """A value of a `-bin` key."""
    return b64encode(content).decode().rstrip("=")


def _status_fields(instead: Replacement) -> list[tuple[str, str]]:
    """The status of what goes out in place of a response, as trailers."""
    fields = [
        ("grpc-status", str(instead.status.value[0])),
        ("grpc-message", quote(instead.message, safe=UNESCAPED)),
        (DETAILS_KEY, _binary(instead.details)),
    ]
    return [field for field in fields if field[1]]
