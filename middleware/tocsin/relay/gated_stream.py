"""A stream of which a gate says what goes out, and when: its messages framed, in their order, its trailers last."""

from __future__ import annotations

import time
from asyncio import Task
from collections.abc import Iterable
from contextlib import suppress

from tocsin.grpc_wire.deframer import framed
from tocsin.http2 import frames
from tocsin.judgement.actions import END, Actions, Ask, Judge, Outcome, Release, Replace
from tocsin.judgement.call import Call
from tocsin.judgement.gate import Gate
from tocsin.judgement.policy import Replacement
from tocsin.protocols.method import Edit
from tocsin.relay.local_reply import replacement_trailers
from tocsin.relay.retrier import CallRoute
from tocsin.relay.stream import Stream
from tocsin.relay.stream_host import StreamHost
from tocsin.relay.windows import Windows
from tocsin.unscored import Unscored


class GatedStream(Stream):
    """Does what the `gate` says about the response of a guarded call, on HTTP/2."""

    __slots__ = ("_accepted", "_asking", "_opened", "_send_window", "_size", "_stripping", "_unread", "gate", "guarded")

    def __init__(self, host: StreamHost, stream_id: int, call: Call, windows: Windows) -> None:
        super().__init__(host, stream_id, call)
        context = self._context
        self.guarded = call
        at_end = context.trusts_verdicts or bool(call.wants_trailing)
        self.gate = Gate(context.guard, call, holds=context.enforces, can_retry=True, trusts_verdicts=at_end)
        self._send_window = windows.responses
        self._opened = time.monotonic()
        self._size = 0  # of the messages that wait
        self._accepted = False  # whether the verdict was made behind
        self._unread = False  # what passes is not gRPC
        self._stripping: tuple[Edit, bytes] | None = None
        self._asking: Task[None] | None = None

    def strip(self, edit: Edit, request: bytes) -> None:
        """Take out of the responses what the caller, whose request this was, did not ask for."""
        self._stripping = edit, request

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

    def _on_answer(self, outcome: Outcome) -> None:
        """Somebody who was asked has answered, or has not."""
        raise NotImplementedError

    def _stripped(self, content: bytes) -> bytes | None:
        """A message without what the caller did not ask for, framed; None where there is nothing to take out of it."""
        if self._stripping is not None:
            edit, request = self._stripping
            with suppress(Unscored):  # else as it came
                return framed(edit.strip(request, content))
        return None
