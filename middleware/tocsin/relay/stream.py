"""One HTTP/2 stream on its way through the relay."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tocsin.judgement.call import Call
from tocsin.protocols.messages import decompress
from tocsin.relay import frames
from tocsin.relay.headers import literal_parts
from tocsin.relay.messages import Assembler, Message, whole_message
from tocsin.unscored import Unscored
from tocsin.verdict import METADATA_KEY

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from tocsin.relay.connection import Connection


class Stream:
    """What the relay knows of a stream between its first HEADERS and its end.

    `call` is None for streams that are not guarded: those are only watched, so that their caller gets a status when
    the upstream goes away. `held` are frames that wait for the verdict, the trailers first.
    """

    __slots__ = (
        "_arrived", "_connection", "_held", "_id", "_pending", "_request", "_response", "_timer",
        "answered", "call", "request_encoding", "response_encoding",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream_id: int, call: Call | None) -> None:
        self.call = call
        self.answered = False
        self.request_encoding = self.response_encoding = ""
        self._connection = connection
        self._id = stream_id
        self._pending = False
        self._held: list[bytes] = []
        self._arrived = 0.0
        self._timer: TimerHandle | None = None
        self._request: Assembler | None = None
        self._response: Assembler | None = None

    @property
    def holding(self) -> bool:
        """Whether frames wait here for a verdict."""
        return bool(self._held)

    def request_data(self, payload: bytes) -> None:
        """A piece of the caller's messages, on a guarded stream."""
        call = self.call
        if call is None or not call.wants_request or call.request is not None:
            return
        if self._request is None:
            call.request = whole_message(payload, self._connection.relay.max_message)
            if call.request is not None:
                return
            self._request = Assembler(self._connection.relay.max_message, self._connection.relay.memory)
        for message in self._request.feed(payload):
            if call.request is None:
                call.request = self._plain(message, self.request_encoding)

    def response_data(self, payload: bytes) -> None:
        """A piece of the response, on a guarded stream; once the message is complete, it is judged in this turn."""
        call = self.call
        if call is None or self._pending or call.verdict is not None:
            return
        if self._response is None:
            call.response = whole_message(payload, self._connection.relay.max_message)
            if call.response is not None:
                self._pending = True
                self._connection.submit(call, self)
                return
            self._response = Assembler(self._connection.relay.max_message, self._connection.relay.memory)
        for message in self._response.feed(payload):
            if not self._pending:
                call.response = self._plain(message, self.response_encoding)
                self._pending = True
                self._connection.submit(call, self)

    def _plain(self, message: Message, encoding: str) -> bytes | None:
        content = message.content
        try:
            if content is None:
                raise Unscored(message.fault or "memory", "a message was not kept")
            if message.compressed:
                content = decompress(content, encoding, self._connection.relay.max_message)
        except Unscored as why:
            assert self.call is not None
            self.call.fault = (why.reason, str(why))
            return None
        return content

    def trailers(self, block: bytes, status: str) -> bytes | None:
        """The response ends with `block`: what to send in its place, nothing while it is held; None for the same."""
        call = self.call
        if call is None:
            return None
        relay = self._connection.relay
        if not self._pending and call.verdict is None:
            if status != "0":
                return None  # a failed call has no response to judge
            relay.guard.give_up(call, "no_response", "the call succeeded without a response message")
        if not relay.annotates:
            return None
        if self._pending:
            self._arrived = time.perf_counter()
            self._held.append(block)
            self._timer = relay.limit(self)
            return b""
        relay.added(0.0)
        return self._annotated(block)

    def hold(self, whole: bytes) -> None:
        """A frame that must stay behind the trailers that wait."""
        self._held.append(whole)

    def judged(self, call: Call) -> None:
        """The verdict is there: let go what waits for it."""
        self._pending = False
        call.request = call.response = None
        if self._held:
            self._release()

    def late(self) -> None:
        """The scoring budget is spent: the trailers go without a verdict."""
        if self._held and self.call is not None:
            self.call.late = True
            self._release()

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        held, self._held = self._held, []
        self._connection.relay.added(time.perf_counter() - self._arrived)
        held[0] = self._annotated(held[0])
        self._connection.released(self._id, held)

    def _annotated(self, block: bytes) -> bytes:
        verdict = self.call.verdict if self.call is not None else None
        if verdict is not None:
            block = b"".join((block, *literal_parts(METADATA_KEY, verdict.to_metadata())))
        return frames.header_frames(self._id, block, end_stream=True, largest=self._connection.largest_frame)

    def drop(self) -> None:
        """The stream was reset: nobody waits any more, and what is unfinished is given back."""
        if self._timer is not None:
            self._timer.cancel()
        if self._held:
            self._held = []
        if self._request is not None:
            self._request.forget()
        if self._response is not None:
            self._response.forget()
