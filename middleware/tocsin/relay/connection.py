"""A client's connection and the upstream connection that goes with it, stream ids kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tocsin.judgement.call import Call
from tocsin.relay import frames
from tocsin.relay.client_side import ClientSide
from tocsin.relay.frames import ACK, SETTINGS, FrameError
from tocsin.relay.refusal import unavailable
from tocsin.relay.server_side import ServerSide
from tocsin.relay.side import Side
from tocsin.relay.stream import Stream

if TYPE_CHECKING:
    from tocsin.relay.server import Relay

REFUSAL_WAITS = 1.0  # seconds in which a client whose upstream is down may still ask, to be told why
REFUSAL_LINGERS = 0.1  # seconds to let it read the answer


class Connection:
    """Both sides, the streams between them, and what ends them."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.streams: dict[int, Stream] = {}
        self.client = ClientSide(self)
        self.server = ServerSide(self)
        self.largest_frame = frames.DEFAULT_MAX_FRAME_SIZE  # that the client takes
        self.refusing = ""  # why the upstream is not there
        self.raw = False  # not HTTP/2: bytes pass unread
        self._deferred = False
        self._draining = False
        self._goaway_owed = False
        self._connecting: asyncio.Task[None] | None = None
        self._last_stream = 0

    def open(self) -> None:
        """The client is there: connect upstream."""
        self.relay.connections.add(self)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        relay = self.relay
        try:
            async with asyncio.timeout(relay.config.connect_timeout.total_seconds()):
                await relay.connect_upstream(lambda: self.server)
        except TimeoutError:
            self.refuse(f"upstream {relay.config.upstream} did not answer the connection in time")
        except OSError as error:
            self.refuse(f"upstream {relay.config.upstream} cannot be reached: {error.strerror or error}")
        else:
            if self.client.closed:
                self.server.close()
            elif self.client.transport is not None:
                self.client.transport.resume_reading()

    # -- streams

    def begin(self, stream_id: int, call: Call | None) -> Stream:
        """A stream's first HEADERS have come."""
        self._last_stream = max(self._last_stream, stream_id)
        self.relay.calls[call is not None] += 1
        stream = self.streams[stream_id] = Stream(self, stream_id, call)
        return stream

    def end(self, stream_id: int) -> None:
        """A stream has ended in both directions, or was reset."""
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            stream.drop()
            if not self.streams and (self._draining or self.client.half_closed):
                # Not now: what this turn has read may not be written yet.
                asyncio.get_running_loop().call_soon(self._close_when_idle)

    def submit(self, call: Call, stream: Stream) -> None:
        """Judge a response; where that happens in this turn of the loop, what follows is written after it."""
        batcher = self.relay.batcher
        batcher.submit(call, stream)
        if batcher.inline and self.relay.annotates and not self._deferred:
            self._deferred = True
            self.relay.after_flush.append(self)

    def released(self, stream_id: int, held: list[bytes]) -> None:
        """A stream's held frames may go: it has ended."""
        self.client.out += held
        self.end(stream_id)
        if not self._deferred:
            self.client.write()
        if self.server.closed:
            self.upstream_lost("")

    def written_after_flush(self) -> None:
        """The batch is judged: write what waited for it."""
        self._deferred = False
        self.flush(self.client)

    def flush(self, side: Side) -> None:
        """Write what waits for a side, unless it waits for a verdict of this turn."""
        if side is self.client:
            if self._goaway_owed and self.server.between_frames:
                self._goaway_owed = False
                side.out.append(frames.goaway(frames.LAST_STREAM, frames.NO_ERROR, "draining"))
            if self._deferred:
                return
        side.write()

    # -- ends

    def refuse(self, reason: str) -> None:
        """There is no upstream: answer what the client asks with UNAVAILABLE and the reason, then send it away.

        It is sent away after its first answer, so that its next call comes on a new connection and finds the
        upstream if that is back.
        """
        self.refusing = reason
        self.relay.upstream_failures += 1
        self.client.out += [frames.frame(SETTINGS, 0, 0), frames.frame(SETTINGS, ACK, 0)]
        self.answer_refused()
        self.client.write()
        if self.client.transport is not None and not self.client.closed:
            self.client.transport.resume_reading()
        asyncio.get_running_loop().call_later(REFUSAL_WAITS, self.close)

    def answer_refused(self) -> None:
        """End the open streams with UNAVAILABLE towards the client, and ask for no more on this connection."""
        if not self.streams:
            return
        for stream_id in list(self.streams):
            self._answer_unavailable(stream_id)
        self.client.out.append(frames.goaway(self._last_stream, frames.NO_ERROR, "upstream is unavailable"))
        asyncio.get_running_loop().call_later(REFUSAL_LINGERS, self.close)

    def _answer_unavailable(self, stream_id: int) -> None:
        stream = self.streams.pop(stream_id)
        self.client.out.append(unavailable(stream_id, self.refusing, answered=stream.answered))
        stream.drop()

    def upstream_lost(self, reason: str) -> None:
        """The upstream has closed: once no trailers wait, end the open calls and close the client's side."""
        if self.client.closed or any(stream.holding for stream in self.streams.values()):
            return
        if self.streams and self.server.between_frames and not self.raw:
            self.refusing = reason or f"upstream {self.relay.config.upstream} closed the connection"
            for stream_id in list(self.streams):
                self._answer_unavailable(stream_id)
            self.client.out.append(frames.goaway(self._last_stream, frames.NO_ERROR, "upstream closed"))
        self._deferred = False
        self.client.close()

    def drain(self) -> None:
        """Take no new calls, let those in flight finish, then close."""
        if self._draining or self.client.closed:
            return
        self._draining = True
        if self.raw:
            return  # there is no saying where it could be cut: it has until the end of draining
        if not self.streams:
            self._close_when_idle()
            return
        self._goaway_owed = True
        self.flush(self.client)

    def abort(self, side: Side, error: FrameError) -> None:
        """A peer broke the protocol: tell it, as its peer would, and close both sides."""
        self.relay.not_understood["malformed"] += 1
        if side.peer.between_frames:
            side.out.append(frames.goaway(self._last_stream, error.code, f"{error}"))
        self.close()

    def _close_when_idle(self) -> None:
        if self.streams:
            return
        if self._draining and self.server.between_frames:
            # Names the last stream that was served, so that a client may safely send later ones elsewhere.
            self.client.out.append(frames.goaway(self._last_stream, frames.NO_ERROR, "draining"))
        self.close()

    def close(self) -> None:
        """Close both sides, writing what waits."""
        self._deferred = False
        self.client.close()
        self.server.close()

    def lost(self) -> None:
        """The client is gone: so is everything of this connection."""
        for stream in self.streams.values():
            stream.drop()
        self.streams.clear()
        self.relay.connections.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        self.server.close()
