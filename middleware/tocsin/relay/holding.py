"""A stream whose responses wait until they are judged, and go out, or something else in their place."""

from __future__ import annotations

import time
from asyncio import Task
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.grpc_wire.deframer import Message, MessageDeframer, framed, whole_message
from tocsin.http2 import frames
from tocsin.http2.flow_control import ReceiveWindow, SendWindow
from tocsin.judgement.call import Call
from tocsin.judgement.enforcement import enforcement_steps, goes_out
from tocsin.judgement.policy import Replacement, failed_closed, not_grpc
from tocsin.protocols.method import Edit
from tocsin.relay.local_reply import replaced
from tocsin.relay.response_block import ResponseBlock, unread_response_block
from tocsin.relay.stream import Stream
from tocsin.unscored import Unscored

if TYPE_CHECKING:
    from tocsin.relay.connection import Connection

SECOND_MESSAGE = "a response of one message has a second one"
_NO_TRAILERS = unread_response_block(b"")  # of a response that ends with DATA


class HeldStream(Stream):
    """A guarded stream in enforce, or one whose responses are changed because more was asked for than the caller did.

    In enforce, messages wait in their order, each until the judgement that covers it; trailers come last.
    """

    _size = 0  # of the messages that wait
    _came = 0  # messages so far
    _accepted = False  # whether the verdict was made behind
    _asked_again = False
    _early = False  # the only verdict was there before whoever brings it
    _partially_sent = False
    _free = False
    _unread = False  # what passes is not gRPC
    _done = False
    _stripping: tuple[Edit, bytes] | None = None
    _again: Task[None] | None = None
    _is_reset = False  # by the upstream, in place of trailers

    def __init__(self, connection: Connection, stream_id: int, call: Call) -> None:
        super().__init__(connection, stream_id, call)
        self.guarded = call
        assert connection.responses is not None and connection.from_server is not None
        self._send_window: SendWindow = connection.responses
        self._receive_window: ReceiveWindow = connection.from_server
        self._messages: deque[bytes] = deque()  # framed, in their order
        self._first = 0  # the place of the first of them in the response
        self._cleared: set[int] = set()  # places of those that may go
        self._deferred: list[tuple[Call, bytes | None]] = []  # judged while somebody is asked, with their response
        self.opened = time.monotonic()

    @property
    def holding(self) -> bool:
        return not self._done and (self._waiting > 0 or self._is_ending or self._again is not None)

    @property
    def _is_ending(self) -> bool:
        """Whether the upstream has said its last."""
        return self._trailing is not None or self._is_reset

    @property
    def upstream(self) -> tuple[Address, UpstreamTls | None]:
        """The model server that this stream leads to."""
        return self._connection.listener.upstream, self._connection.listener.upstream_tls

    def strip(self, edit: Edit, request: bytes) -> None:
        """Take out of the responses what the caller, whose request this was, did not ask for."""
        self._stripping = edit, request

    # -- what the upstream sends

    def pass_unread(self, block: ResponseBlock) -> bool:
        relay, call = self._connection.relay, self.guarded
        self._count_unread(call, block)
        if relay.guard.closed(call):
            relay.guard.acted(call, "refused")
            self.replace(not_grpc(block.http_status, block.foreign, call.verdict))
            return True
        self._unread = True
        self._pass_the_rest()
        return False

    def take(self, payload: bytes, size: int, ended: bool) -> None:
        """A piece of the response, `size` bytes of a window."""
        if self._send_window.blocked(self._id):
            self._receive_window.defer_credit(self._id, size)
        else:
            self._receive_window.credit(self._id, size, ended=ended)
        if self._done:
            return
        if self._free:
            if payload:
                self._send_window.send(self._id, payload)
        else:
            self._assemble(payload)
        if ended:
            self.response_ended = True
            self._trailing = _NO_TRAILERS
            self._finish_held("")

    def _assemble(self, payload: bytes) -> None:
        relay = self._connection.relay
        if self._response is None:
            single = whole_message(payload, relay.max_message)
            if single is not None:
                self._message(payload, single)
                return
            self._response = MessageDeframer(relay.max_message, self._connection.memory, keeps=True)
        for message in self._response.feed(payload):
            if self._done:
                return
            if message.content is None:
                self._cannot_hold(message, self._response.rest)
                return
            framed_message = framed(message.content, compressed=message.compressed)
            if self._free:  # since a message before this one
                self._send(framed_message)
                continue
            content, fault = self._plain(message, self.response_encoding)
            if fault is None and content is not None:
                self._message(framed_message, content)
            elif self._came and not self.guarded.streams:
                self._pass_unjudged(framed_message, SECOND_MESSAGE)
            else:
                self._keep(framed_message)
                self._tell(self.guarded.on_response_message(None, fault))
                self._count_requests(self.guarded)
        if self._free and (unfinished := self._response.unfinished()):
            self._send(unfinished)

    def _message(self, framed_message: bytes, content: bytes) -> None:
        """A message as it came, and without framing and compression."""
        if self._came and not self.guarded.streams:
            self._pass_unjudged(framed_message, SECOND_MESSAGE)
            return
        if self._stripping is not None:
            framed_message = self._stripped(content) or framed_message
        self._keep(framed_message)
        if self.guarded.streams:
            self._count_requests(self.guarded)
        if self._connection.memory.lacks_room:
            self._cannot_hold(Message(False, None, "memory"), b"")
            return
        self._tell(self.guarded.on_response_message(content, None))
        if self.guarded.streams:
            self._count_requests(self.guarded)

    def _stripped(self, content: bytes) -> bytes | None:
        """A message without what the caller did not ask for, framed; None where there is nothing to take out of it."""
        if self._stripping is not None:
            edit, request = self._stripping
            with suppress(Unscored):  # else as it came
                return framed(edit.strip(request, content))
        return None

    def _keep(self, framed_message: bytes) -> None:
        """Until it is judged; where nothing is done about verdicts, it goes on at once."""
        self._came += 1
        if not self._connection.relay.enforces:
            self._send(framed_message)  # written at the end of this turn, with what else has come
            return
        self._messages.append(framed_message)
        self._size += len(framed_message)
        self._connection.memory.charge(len(framed_message))

    def _tell(self, piece: Call | None) -> None:
        if piece is None:
            return
        if self._connection.relay.trusts_verdicts and piece is self.guarded:
            return  # the trailers tell whether somebody has judged already
        self._submit(piece)

    def _submit(self, piece: Call) -> None:
        self._arrived = self._arrived or time.perf_counter()
        self._waiting += 1
        self._connection.submit(piece, self)
        if self._timer is None:
            self._timer = self._connection.relay.limit(self, self.guarded)

    def _cannot_hold(self, message: Message, rest: bytes) -> None:
        """A message is too large to be held: it and all that follows pass, or nothing does."""
        relay = self._connection.relay
        relay.guard.give_up(self.guarded, message.fault or "memory", "a response is larger than what may be held")
        if relay.guard.closed(self.guarded) or self._again is not None:  # what is withheld must not pass with it
            self._refuse(self.guarded)
            return
        self._pass_the_rest()
        if rest:
            self._send(rest)

    def _pass_unjudged(self, framed_message: bytes, what: str) -> None:
        """Something came that is no part of a response to be judged: it goes out behind what is, as callers would see
        it without Tocsin, or nothing does.
        """
        guard = self._connection.relay.guard
        _, (unjudged, *_) = self.guarded.answered_anew(None, (b"",))
        unjudged.model = guard.model_of(self.guarded)
        guard.give_up(unjudged, "undecodable", what)
        if guard.closed(unjudged):
            self._refuse(unjudged)
            return
        if not self._came:
            self.guarded.verdict = unjudged.verdict
        self._cleared.add(self._first + len(self._messages))
        self._keep(framed_message)
        self._send_cleared()

    def trailers(self, block: ResponseBlock) -> bytes | None:
        """The response ends with `block`, which waits for what is judged."""
        self.response_ended = True
        if self._done:
            return b""
        self._trailing = block
        self._finish_held(block.grpc_status)
        return b""

    def _finish_held(self, status: str) -> None:
        call, relay, trailing = self.guarded, self._connection.relay, self._trailing
        assert trailing is not None
        rest = self._response.unfinished() if self._response is not None and not self._free else b""
        if rest and (status in ("0", "") or not relay.guard.closed(call)):  # else the status tells that it failed
            self._pass_unjudged(rest, "the response ends inside a message")
            if self._done:
                return
        if self._free:
            pass
        elif trailing.verdicts and self._accepts(call, trailing):
            self._accepted = True
            if status == "0":
                self.judged(call)
                return
        elif pieces := call.ended():
            for piece in pieces:
                self._submit(piece)
        elif not call.streams and not self._waiting and call.verdict is None:
            if call.response is not None or call.fault is not None:
                self._submit(call)  # it waited for the trailers
            elif status == "0":
                relay.guard.give_up(call, "no_response", "the call succeeded without a response message")
                if relay.guard.closed(call):
                    self._refuse(call)
                    return
        if not self._waiting and self._again is None:
            self._end()

    def hold(self, frame: bytes) -> None:
        """The upstream resets the stream, behind its trailers or in their place: what came before goes first."""
        self._held = [*self._held, frame]
        if self._is_ending:
            return
        self.response_ended = self._is_reset = True
        if not self._free:
            for piece in self.guarded.ended():
                self._submit(piece)
        if not self._waiting and self._again is None:
            self._end()

    # -- verdicts

    def judged(self, call: Call) -> None:
        """A verdict is there: let go what it covers, or do what it says."""
        self._waiting = max(0, self._waiting - 1)
        if self._done or self._free or self._early:
            return
        if self._again is not None:  # what becomes of the response is not known yet
            self._deferred.append((call, call.response))
            return
        self._decide(call)

    def _decide(self, call: Call) -> None:
        verdict, relay = call.verdict, self._connection.relay
        if relay.enforces and verdict is not None:  # who only records gives none
            if not goes_out(call):
                self._act(call)
                return
            relay.guard.acted(call, verdict.action)
        call.on_forwarded()
        self._go(call.message_indices)

    def late(self) -> None:
        """The scoring budget is spent."""
        if self._done or not self._waiting or self._again is not None:
            return
        if not self.guarded.streams and self.guarded.verdict is not None:  # it is there, its bearer on the way
            self._early = True
            self._waiting = 0
            self._decide(self.guarded)
            self._connection.request_flush()
            return
        self.guarded.late = True
        self._waiting = 0
        guard, late = self._connection.relay.guard, self._connection.relay.guard.late(self.guarded)
        if guard.closed(self.guarded):
            self._late = late
            guard.acted(self.guarded, "refused")
            self.replace(failed_closed(late))
            return
        if self.guarded.verdict is None:  # of a stream, what was judged in time counts
            self._late = late
        self._pass_the_rest()
        if self._is_ending:
            self._end()
        self._connection.request_flush()

    def _go(self, places: Iterable[int]) -> None:
        if self._messages:
            self._cleared.update(places)
        sent = self._send_cleared()
        if (
            (self._trailing is not None or self._is_reset)
            and not self._waiting
            and self._again is None
            and not self._deferred
        ):
            self._end()
            sent = True
        if sent:
            self._connection.request_flush()

    def _send_cleared(self) -> bool:
        """Send the messages that may go and have none before them that may not; whether there were any."""
        before = size = self._size
        messages, cleared = self._messages, self._cleared
        while messages and self._first in cleared:
            cleared.discard(self._first)
            self._first += 1
            framed_message = messages.popleft()
            size -= len(framed_message)
            self._partially_sent = True
            self._send_window.send(self._id, framed_message)
        if size == before:
            return False
        self._size = size
        self._connection.memory.release(before - size)
        return True

    def _send(self, content: bytes) -> None:
        self._partially_sent = True
        self._send_window.send(self._id, content)

    def _pass_the_rest(self) -> None:
        """Nothing more of this call is judged."""
        self._free = True
        unfinished = self._response.unfinished() if self._response is not None else b""
        self._give_back()
        messages, self._messages = self._messages, deque()
        for framed_message in messages:
            self._send(framed_message)
        if unfinished:
            self._send(unfinished)
        if self.guarded.streams:
            self.guarded.forget()

    def _end(self) -> None:
        """Everything went out but the trailers."""
        self._done = True
        if self._kept_bytes or self._kept_requests:
            self.guarded.forget_requests()
            self._give_back_kept()
        if self._arrived:
            self._connection.relay.added(time.perf_counter() - self._arrived)
        if self._trailing is None:
            self._give_back()  # of a message that was cut off
        elif self.response_ended and not self._trailing.block:
            self._send_window.send(self._id, b"", frames.END_STREAM)
        else:
            self._send_window.enqueue_after_data(self._id, self._last_block(self._trailing))
        for frame in self._held:
            self._send_window.enqueue_after_data(self._id, frame)
        self._held = ()
        self._connection.on_response_done(self._id)

    def _last_block(self, block: ResponseBlock) -> bytes:
        """The trailers with the verdict, unless callers are not told, or what passes is not gRPC."""
        with_verdict = (self._accepted or self._connection.relay.annotates) and not self._unread
        return self._annotated(block) if with_verdict else self._last_frames(block.block)

    # -- acting

    def _act(self, call: Call) -> None:
        """Do what the verdict asks for: at once, or by a task where somebody must be asked."""
        relay = self._connection.relay
        assert relay.retrier is not None
        request = call.request or b""  # what is judged is forgotten at the end of this turn
        asks = self.request_ended and not self._asked_again
        steps = enforcement_steps(relay.guard, call, partially_sent=self._partially_sent, can_retry=asks)
        try:
            first = next(steps)
        except StopIteration as done:
            self.acted(done.value, call)
        else:
            self._asked_again = True
            self._again = relay.retrier.start(self, call, request, steps, first)

    def acted(self, instead: Replacement | None, call: Call) -> None:
        """It is known what goes out in place of what `call` covers, None for itself."""
        self._again = None
        if self._done:
            return
        if instead is not None:
            self.replace(instead)
            return
        call.on_forwarded()
        self._go(call.message_indices)
        while self._deferred and self._again is None and not self._done:
            another, response = self._deferred.pop(0)
            another.response = response
            self._decide(another)
            another.forget()

    def _refuse(self, call: Call) -> None:
        self._connection.relay.guard.acted(call, "refused")
        if call.verdict is not None:
            self.guarded.conclude(call.verdict)
        self.replace(failed_closed(call.verdict))

    def replace(self, instead: Replacement) -> None:
        """Drop what is held, send this in its place, and end the stream on both sides."""
        self._done = True
        self.guarded.forget_requests()
        self._give_back_kept()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._give_back()
        self._messages.clear()
        self._deferred.clear()
        self._held = ()
        if self._arrived:
            self._connection.relay.added(time.perf_counter() - self._arrived)
        for response in instead.responses:
            self._send_window.send(self._id, (instead.further and self._stripped(response)) or framed(response))
        relay, verdict = self._connection.relay, self._late or self.guarded.verdict
        limit = self._connection.largest_list
        trailers, cut = replaced(self._id, instead, verdict, headers_sent=self.headers_sent, limit=limit)
        if cut:
            relay.cut_verdicts[cut] += 1
        self._send_window.enqueue_after_data(self._id, trailers)
        if not self.request_ended:
            self._send_window.enqueue_after_data(self._id, frames.reset(self._id, frames.NO_ERROR))
        if not self.response_ended and self.guarded.request is not None and relay.retrier is not None:
            relay.retrier.stop(self, self.guarded.request)
        self._connection.replaced(self._id, upstream_ended=self.response_ended and self.request_ended)

    def _give_back(self) -> None:
        if self._size:
            self._connection.memory.release(self._size)
            self._size = 0
        if self._response is not None:
            self._response.forget()

    def drop(self) -> None:
        """Nobody waits any more."""
        if self._again is not None:
            self._again.cancel()
        self._done = True
        self._give_back()
        self._messages.clear()
        self._deferred.clear()
        self._receive_window.release_credit(self._id, ended=self.response_ended)
        super().drop()
