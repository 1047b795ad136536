"""A stream whose responses wait until they are judged, and go out, or something else in their place."""

from __future__ import annotations

import time
from asyncio import Task
from collections.abc import Iterable
from contextlib import suppress

from tocsin.grpc_wire.deframer import MessageDeframer, framed, whole_message
from tocsin.http2 import frames
from tocsin.judgement.actions import END, Actions, Ask, Judge, Outcome, Release, Replace
from tocsin.judgement.call import Call
from tocsin.judgement.gate import DONE, PASSING, Gate
from tocsin.judgement.policy import Replacement, not_grpc
from tocsin.protocols.method import Edit
from tocsin.relay.local_reply import replacement_trailers
from tocsin.relay.response_block import ResponseBlock, unread_response_block
from tocsin.relay.retrier import CallRoute
from tocsin.relay.stream import Stream
from tocsin.relay.stream_host import StreamHost
from tocsin.relay.windows import Windows
from tocsin.unscored import Unscored

MOST_AHEAD = 1 << 18  # bytes of a stream's messages that wait for verdicts before the upstream waits as well

_NO_TRAILERS = unread_response_block(b"")  # of a response that ends with DATA


class HeldStream(Stream):
    """A guarded stream in enforce, or one whose responses are changed because more was asked for than the caller did.

    The `gate` says what goes out; this knows how, on HTTP/2: messages framed, in their order, trailers last.
    """

    _size = 0  # of the messages that wait
    _accepted = False  # whether the verdict was made behind
    _unread = False  # what passes is not gRPC
    _is_dropped = False  # nobody reads what would go out
    _stripping: tuple[Edit, bytes] | None = None
    _asking: Task[None] | None = None

    def __init__(self, host: StreamHost, stream_id: int, call: Call, windows: Windows) -> None:
        super().__init__(host, stream_id, call)
        context = self._context
        self.guarded = call
        at_end = context.trusts_verdicts or bool(call.wants_trailing)
        self.gate = Gate(context.guard, call, holds=context.enforces, can_retry=True, trusts_verdicts=at_end)
        self._send_window = windows.responses
        self._receive_window = windows.from_server
        self._opened = time.monotonic()

    @property
    def holding(self) -> bool:
        return self.gate.is_holding

    def strip(self, edit: Edit, request: bytes) -> None:
        """Take out of the responses what the caller, whose request this was, did not ask for."""
        self._stripping = edit, request

    # -- what the upstream sends

    def on_foreign_response(self, block: ResponseBlock) -> bool:
        call, gate = self.guarded, self.gate
        self._count_unread(call, block)
        if self._context.guard.fails_closed(call):
            self._do(gate.replace(not_grpc(block.http_status, block.foreign, call.verdict)))
            return True
        self._unread = True
        self._do(gate.pass_the_rest())
        self._pass_unfinished()
        return False

    def take(self, payload: bytes, size: int, ended: bool) -> None:
        """A piece of the response, `size` bytes of a window."""
        is_ahead = self._size > MOST_AHEAD and self.gate.awaits_verdict
        if is_ahead or (self._send_window.waiting and self._send_window.blocked(self._id)):
            self._receive_window.defer_credit(self._id, size)
        else:
            self._receive_window.credit(self._id, size, ended=ended)
        state = self.gate.state
        if state == DONE:
            return
        if state != PASSING:
            self._assemble(payload)
        elif payload:
            self._send_window.send(self._id, payload)
        if ended:
            self.response_ended = True
            self._trailing = _NO_TRAILERS
            self._end_response("")

    def _assemble(self, payload: bytes) -> None:
        largest = self._context.max_message
        if self._response is None:
            single = whole_message(payload, largest)
            if single is not None:
                self._message(payload, single)
                return
            self._response = MessageDeframer(largest, self._host.memory, keeps=True)
        gate = self.gate
        for message in self._response.feed(payload):
            if gate.state == DONE:
                return
            if message.content is None:
                self._give_up(message.fault or "memory", self._response.rest)
                return
            framed_message = framed(message.content, compressed=message.compressed)
            content, fault = self._plain(message, self.response_encoding) if gate.state != PASSING else (None, None)
            if content is not None:
                self._message(framed_message, content)
                continue
            self._charge(len(framed_message))
            self._do(gate.on_message(framed_message, None, fault))
            self._count_requests(self.guarded)
        self._pass_unfinished()

    def _message(self, framed_message: bytes, content: bytes) -> None:
        """A message as it came, and without framing and compression."""
        call, memory = self.guarded, self._host.memory
        if self._stripping is not None:
            framed_message = self._stripped(content) or framed_message
        size = len(framed_message)
        self._size += size
        is_short = memory.charge(size)
        if call.streams:
            self._count_requests(call)
        if is_short and memory.lacks_room and self.gate.expects_more:
            self._size -= size  # it is charged where it is given up
            memory.release(size)
            self._give_up("memory", framed_message)
            return
        self._do(self.gate.on_message(framed_message, content))
        if call.streams:
            self._count_requests(call)

    def _stripped(self, content: bytes) -> bytes | None:
        """A message without what the caller did not ask for, framed; None where there is nothing to take out of it."""
        if self._stripping is not None:
            edit, request = self._stripping
            with suppress(Unscored):  # else as it came
                return framed(edit.strip(request, content))
        return None

    def _give_up(self, reason: str, rest: bytes) -> None:
        """A message is too large to be held, of which `rest` has come."""
        self._charge(len(rest))
        self._do(self.gate.give_up(reason, "a response is larger than what may be held", rest))
        self._pass_unfinished()

    def _pass_unfinished(self) -> None:
        """Where nothing is judged any more, what there is of a message goes on."""
        if self.gate.state == PASSING and self._response is not None and (rest := self._response.unfinished()):
            self._send_window.send(self._id, rest)

    def trailers(self, block: ResponseBlock) -> bytes | None:
        """The response ends with `block`, which waits for what is judged."""
        if self.gate.state != DONE:
            self._trailing = block
            if self.guarded.wants_trailing:
                self.note_trailing(self.guarded, block)
            self._end_response(block.grpc_status)
        return b""

    def _end_response(self, status: str) -> None:
        gate, trailing = self.gate, self._trailing
        assert trailing is not None
        if self._response is not None and gate.state != PASSING:
            rest = self._response.unfinished()
            # of a call that failed, the status tells that it did
            if rest and (status in ("0", "") or not self._context.guard.fails_closed(self.guarded)):
                self._charge(len(rest))
                self._do(gate.pass_unjudged(rest, "the response ends inside a message"))
        if gate.state == DONE:
            return
        if trailing.verdicts and gate.state != PASSING and self._accepts(self.guarded, trailing):
            self._accepted = True
            self._do(gate.on_accepted(succeeded=status == "0"))
        elif actions := gate.on_end(succeeded=status == "0"):
            self._do(actions)

    def hold(self, frame: bytes) -> None:
        """The upstream resets the stream, behind its trailers or in their place: what came before goes first."""
        self._held = [*self._held, frame]
        self.response_ended = True
        self._do(self.gate.on_reset())

    # -- what the gate says

    def judged(self, call: Call) -> None:
        """A verdict is there."""
        gate = self.gate
        gate.request_is_whole = self.request_ended
        self._do(gate.on_verdict(call))
        if self._receive_window.later:
            self._catch_up()
        self._host.request_flush()

    def on_deadline(self) -> None:
        """The scoring budget is spent."""
        gate = self.gate
        gate.request_is_whole = self.request_ended
        actions = gate.on_deadline()
        self._late_verdict = gate.late_verdict
        self._do(actions)
        self._pass_unfinished()
        if self._receive_window.later:
            self._catch_up()
        self._host.request_flush()

    def _on_answer(self, outcome: Outcome) -> None:
        """Somebody who was asked has answered, or has not."""
        self._asking = None
        self._do(self.gate.on_answer(outcome))
        if self._receive_window.later:
            self._catch_up()
        self._host.request_flush()

    def _catch_up(self) -> None:
        """The upstream goes on with a stream that waited for verdicts."""
        if not self.gate.awaits_verdict and not self._send_window.blocked(self._id):
            self._receive_window.release_credit(self._id, ended=self.response_ended)
            self._host.write_upstream()

    def _do(self, actions: Actions) -> None:
        """What the gate says, in order."""
        for action in actions:
            if action is END:
                self._end()
            elif isinstance(action, Release):
                self._send_on(action.items)
            elif isinstance(action, Judge):
                self._judge(action.call)
            elif isinstance(action, Replace):
                self._replace(action.instead)
            elif isinstance(action, Ask):
                self._asking = self._context.retrier.ask(action, self._route(), self._on_answer)

    def _judge(self, piece: Call) -> None:
        if not self._arrived:
            self._arrived = time.perf_counter()
        if not self._host.submit(piece, self) and self._timer is None:
            self._timer = self._context.limit(self.guarded, self.on_deadline)

    def _send_on(self, messages: Iterable[bytes]) -> None:
        size = 0
        for message in messages:
            size += len(message)
            self._send_window.send(self._id, message)
        self._size -= size
        self._host.memory.release(size)

    def _end(self) -> None:
        """Everything went out but the trailers."""
        if self._kept_bytes or self._kept_requests:
            self.guarded.forget_requests()
            self._give_back_kept()
        if self._arrived:
            self._context.added(time.perf_counter() - self._arrived)
        trailing, send_window = self._trailing, self._send_window
        if trailing is None:
            self._give_back()  # of a message that was cut off
        elif trailing.block:
            # With the verdict, unless callers are not told, or what passes is not gRPC.
            with_verdict = (self._context.annotates or self._accepted) and not self._unread
            block = self._annotated(trailing) if with_verdict else self._last_frames(trailing.block)
            send_window.enqueue_after_data(self._id, block)
        else:
            send_window.send(self._id, b"", frames.END_STREAM)
        if self._held:
            for frame in self._held:
                send_window.enqueue_after_data(self._id, frame)
            self._held = ()
        self._host.on_response_done(self._id)

    def _replace(self, instead: Replacement) -> None:
        """Drop what is held, send this in its place, and end the stream on both sides."""
        self._give_back_kept()
        self._stop_asking()
        self._give_back()
        self._held = ()
        if self._arrived:
            self._context.added(time.perf_counter() - self._arrived)
        for response in instead.responses:
            self._send_window.send(self._id, (instead.further and self._stripped(response)) or framed(response))
        limit = self._host.largest_list
        trailers, shortening = replacement_trailers(
            self._id, instead, self.gate.verdict, headers_sent=self.headers_sent, limit=limit
        )
        if shortening:
            self._context.cut_verdicts[shortening] += 1
        self._send_window.enqueue_after_data(self._id, trailers)
        if not self.request_ended:
            self._send_window.enqueue_after_data(self._id, frames.reset(self._id, frames.NO_ERROR))
        if not self.response_ended and self.guarded.request is not None:
            abort = self.guarded.reads.stop(self.guarded.request)
            if abort is not None:
                self._context.retrier.stop(abort, self._route())
        self._host.replaced(self._id, upstream_ended=self.response_ended and self.request_ended)

    def _route(self) -> CallRoute:
        host = self._host
        return CallRoute(host.upstream_address, host.upstream_tls, self.fields, self._opened, self._context.max_message)

    def _charge(self, size: int) -> None:
        """A message is kept, or is about to go on."""
        self._size += size
        self._host.memory.charge(size)

    def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _give_back(self) -> None:
        if self._size:
            self._host.memory.release(self._size)
            self._size = 0
        if self._response is not None:
            self._response.forget()

    def drop(self) -> None:
        """Nobody waits any more."""
        if self.gate.state != DONE:
            self._stop_asking()
            self.gate.close()
        if self._size or self._response is not None:
            self._give_back()
        if self._receive_window.later:
            self._receive_window.release_credit(self._id, ended=self.response_ended)
        super().drop()
