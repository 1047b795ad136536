"""One HTTP/2 stream on its way through the relay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tocsin.judgement.call import Call, Fault
from tocsin.protocols.messages import decompress
from tocsin.relay import frames
from tocsin.relay.headers import literal_parts
from tocsin.relay.messages import Assembler, Message, whole_message
from tocsin.unscored import Unscored
from tocsin.verdict import METADATA_KEY, Verdict

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from tocsin.relay.connection import Connection


class Stream:
    """What the relay knows of a stream between its first HEADERS and its end.

    `call` is None for streams that are not guarded: those are only watched, so that their caller gets a status when
    the upstream goes away. Frames that wait for the verdict are held, the trailers first. `fields` are the request's
    headers, kept where the request may be sent again.
    """

    answered = False
    request_ended = False
    response_ended = False
    fields: Sequence[tuple[str, str]] = ()
    request_encoding = ""
    response_encoding = ""
    _waiting = 0  # judgements that are not there yet
    _kept = 0  # bytes that the call keeps of a stream, until they are judged
    _header_size = 0
    _arrived = 0.0
    _held: Sequence[bytes] = ()
    _timer: TimerHandle | None = None
    _request: Assembler | None = None
    _response: Assembler | None = None

    def __init__(self, connection: Connection, stream_id: int, call: Call | None) -> None:
        self.call = call
        self._connection = connection
        self._id = stream_id

    @property
    def holding(self) -> bool:
        """Whether frames wait here for a verdict."""
        return bool(self._held)

    def keep_headers(self, size: int) -> None:
        """Of the request's headers so many bytes are kept for as long as the stream is open."""
        self._header_size = size
        self._connection.memory.charge(size)

    def request_data(self, payload: bytes) -> None:
        """A piece of the caller's messages, on a guarded stream."""
        call = self.call
        if call is None or not call.wants_request or (call.request is not None and not call.streams):
            return
        if self._request is None:
            found = whole_message(payload, self._connection.relay.max_message)
            if found is not None:
                call.asked(found)
                return
            self._request = Assembler(self._connection.relay.max_message, self._connection.memory)
        for message in self._request.feed(payload):
            if call.request is None or call.streams:
                call.asked(*self._plain(message, self.request_encoding))

    def response_data(self, payload: bytes) -> None:
        """A piece of the response, on a guarded stream; once a message is complete, it is judged."""
        call = self.call
        if call is None or (not call.streams and (self._waiting or call.verdict is not None)):
            return
        if self._response is None:
            found = whole_message(payload, self._connection.relay.max_message)
            if found is not None:
                self._answered(call, found, None)
                return
            self._response = Assembler(self._connection.relay.max_message, self._connection.memory)
        for message in self._response.feed(payload):
            self._answered(call, *self._plain(message, self.response_encoding))

    def _answered(self, call: Call, content: bytes | None, fault: Fault | None) -> None:
        """A whole message of the response."""
        memory = self._connection.memory
        if content is not None and call.streams and memory.lacks_room:
            content, fault = None, ("memory", "a message was not kept")
        piece = call.answered(content, fault)
        if call.kept != self._kept:
            if call.kept > self._kept:
                memory.charge(call.kept - self._kept)
            else:
                memory.release(self._kept - call.kept)
            self._kept = call.kept
        if piece is not None:
            self._submit(piece)

    def _submit(self, piece: Call) -> None:
        relay = self._connection.relay
        if relay.accepts and self.call is piece:
            return  # the trailers tell whether somebody has judged already
        self._waiting += 1
        self._connection.submit(piece, self)

    def _plain(self, message: Message, encoding: str) -> tuple[bytes | None, Fault | None]:
        """A message without its compression, or why it is not to be had."""
        content = message.content
        try:
            if content is None:
                raise Unscored(message.fault or "memory", "a message was not kept")
            if message.compressed:
                content = decompress(content, encoding, self._connection.relay.max_message)
        except Unscored as why:
            return None, (why.reason, str(why))
        return content, None

    def trailers(self, block: bytes, status: str, told: str = "") -> bytes | None:
        """The response ends with `block`: what to send in its place, nothing while it is held; None for the same.

        `told` is the verdict that somebody behind has written into it.
        """
        call = self.call
        if call is None:
            return None
        relay = self._connection.relay
        if told and relay.accepts:
            call.verdict = accepted_verdict(told)
            if call.verdict is not None:
                relay.accepted += 1
                return None
        if not self._waiting or call.streams or status != "0":
            self._finish(call, status)
        if not relay.annotates or (not self._waiting and call.verdict is None):
            return None
        if self._waiting:
            self._arrived = time.perf_counter()
            self._held = [block]
            self._timer = relay.limit(self, call)
            return b""
        relay.added(0.0)
        return self._annotated(block)

    def _finish(self, call: Call, status: str) -> None:
        """No more messages come: judge what is left, and count a response that is missing."""
        relay = self._connection.relay
        if status != "0":
            if call.streams:
                call.forget()
            return  # a failed call has no response to judge; of a stream, what came before counts
        pieces = call.ended()
        self._connection.memory.release(self._kept)
        self._kept = 0
        for piece in pieces:
            self._submit(piece)
        if not pieces and not call.streams and call.verdict is None and not self._waiting:
            if call.response is not None or call.fault is not None:  # it waited for the trailers
                self._waiting += 1
                self._connection.submit(call, self)
            else:
                relay.guard.give_up(call, "no_response", "the call succeeded without a response message")

    def hold(self, whole: bytes) -> None:
        """A frame that must stay behind the trailers that wait."""
        self._held = [*self._held, whole]

    def judged(self, call: Call) -> None:
        """A verdict is there: let go what waits for the last of them."""
        del call
        self._waiting -= 1
        if self._held and not self._waiting:
            self._release()

    def late(self) -> None:
        """The scoring budget is spent: the trailers go without a verdict."""
        if self._held and self.call is not None:
            self.call.late = True
            self._release()

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        trailers, *others = self._held
        self._held = ()
        self._connection.relay.added(time.perf_counter() - self._arrived)
        self._connection.released(self._id, [self._annotated(trailers), *others])

    def _annotated(self, block: bytes) -> bytes:
        verdict = self.call.verdict if self.call is not None else None
        if verdict is not None:
            block = b"".join((block, *literal_parts(METADATA_KEY, verdict.to_metadata())))
        return self._last_frames(block)

    def _last_frames(self, block: bytes) -> bytes:
        """The frames of the trailers."""
        return frames.header_frames(self._id, block, end_stream=True, largest=self._connection.client.largest_frame)

    def drop(self) -> None:
        """The stream was reset: nobody waits any more, and what is unfinished is given back."""
        if self._timer is not None:
            self._timer.cancel()
        self._held = ()
        if self._header_size:
            self._connection.memory.release(self._header_size)
            self._header_size = 0
        if self._kept:
            self._connection.memory.release(self._kept)
            self._kept = 0
        if self._request is not None:
            self._request.forget()
        if self._response is not None:
            self._response.forget()
        if self.call is not None:
            self._connection.relay.guard.over(self.call)


def accepted_verdict(told: str) -> Verdict | None:
    """The verdict that somebody else has written, None where it is none."""
    try:
        return Verdict.from_metadata(told)
    except ValueError:
        return None
