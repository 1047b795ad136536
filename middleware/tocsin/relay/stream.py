"""One HTTP/2 stream on its way through the relay."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tocsin.judgement.call import Call
from tocsin.protocols.messages import decompress
from tocsin.relay import frames
from tocsin.relay.headers import literal
from tocsin.relay.messages import Assembler, Message
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
        "_arrived", "_call", "_connection", "_held", "_id", "_pending", "_timer",
        "answered", "request", "request_encoding", "response", "response_encoding",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream_id: int, call: Call | None) -> None:
        self._connection = connection
        self._id = stream_id
        self._call = call
        self._pending = False
        self._held: list[bytes] = []
        self._arrived = 0.0
        self._timer: TimerHandle | None = None
        self.answered = False
        self.request_encoding = self.response_encoding = ""
        self.request: Assembler | None = None
        self.response: Assembler | None = None
        if call is not None:
            relay = connection.relay
            self.response = Assembler(relay.max_message, relay.memory)
            if call.wants_request:
                self.request = Assembler(relay.max_message, relay.memory)

    @property
    def guarded(self) -> bool:
        """Whether responses on this stream are judged."""
        return self._call is not None

    @property
    def holding(self) -> bool:
        """Whether frames wait here for a verdict."""
        return bool(self._held)

    def take_request(self, message: Message) -> None:
        """The caller's message is complete."""
        if self._call is not None and self._call.request is None:
            self._call.request = self._plain(message, self.request_encoding)

    def take_response(self, message: Message) -> None:
        """The response message is complete: judge it in this turn of the loop."""
        call = self._call
        if call is None or call.response is not None or self._pending or call.verdict is not None:
            return
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
            assert self._call is not None
            self._call.fault = (why.reason, str(why))
            return None
        return content

    def trailers(self, block: bytes, status: str) -> bytes | None:
        """The response ends with `block`: what to send in its place, nothing while it is held; None for the same."""
        call = self._call
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
        if self._held and self._call is not None:
            self._call.late = True
            self._release()

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        held, self._held = self._held, []
        self._connection.relay.added(time.perf_counter() - self._arrived)
        held[0] = self._annotated(held[0])
        self._connection.released(self._id, held)

    def _annotated(self, block: bytes) -> bytes:
        verdict = self._call.verdict if self._call is not None else None
        if verdict is not None:
            block += literal(METADATA_KEY, verdict.to_metadata())
        return frames.header_frames(self._id, block, end_stream=True, largest=self._connection.largest_frame)

    def drop(self) -> None:
        """The stream was reset: nobody waits any more, and what is unfinished is given back."""
        if self._timer is not None:
            self._timer.cancel()
        self._held = []
        for assembler in (self.request, self.response):
            if assembler is not None:
                assembler.forget()
