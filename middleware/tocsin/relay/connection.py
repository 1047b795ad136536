"""A client's connection and the upstream connection that goes with it, stream ids kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tocsin.judgement.call import Call
from tocsin.relay import frames
from tocsin.relay.asking import AskingStream
from tocsin.relay.client_side import ClientSide
from tocsin.relay.flow import Inflow, Outflow
from tocsin.relay.frames import ACK, SETTINGS, FrameError
from tocsin.relay.holding import HeldStream
from tocsin.relay.refusal import refused, unavailable
from tocsin.relay.server_side import ServerSide
from tocsin.relay.side import Side
from tocsin.relay.stream import Stream

if TYPE_CHECKING:
    from tocsin.relay.listening import Port
    from tocsin.relay.server import Relay

REFUSAL_WAITS = 1.0  # seconds in which a client whose upstream is down may still ask, to be told why
REFUSAL_LINGERS = 0.1  # seconds to let it read the answer
REMEMBERED = 1_024  # streams ended by the relay, of which frames may still come


class Connection:
    """Both sides, the streams between them, and what ends them.

    Where responses are held or changed, the relay keeps flow control: `responses` go to the client within its windows,
    and the upstream is given some `from_server`; `requests` and `from_client` are the same the other way.
    """

    def __init__(self, relay: Relay, port: Port) -> None:
        self.relay = relay
        self.listener = port.listener
        self.name = relay.name_connection()
        self.model = port.listener.model
        self._port = port
        self.streams: dict[int, Stream] = {}
        self.gone: dict[int, bool] = {}  # streams that the relay has ended itself
        self.client = ClientSide(self)
        self.server = ServerSide(self)
        manages = relay.enforces or relay.asks
        self.responses = Outflow(self.client, relay.memory) if manages else None
        self.from_server = Inflow(self.server) if manages else None
        self.requests = Outflow(self.server, relay.memory) if manages else None
        self.from_client = Inflow(self.client) if manages else None
        self.server.orderly = self.client.orderly = manages  # credits go to the upstream while requests are read
        self.largest_frame = frames.DEFAULT_MAX_FRAME_SIZE  # that the client takes
        self.refusing = ""  # why the upstream is not there
        self.outdated = False  # begun under a configuration that asked for less
        self.raw = False  # not HTTP/2: bytes pass unread
        self.idle_since = relay.now()
        self._deferred = False
        self._draining = False
        self._goaway_owed = False
        self._connecting: asyncio.Task[None] | None = None
        self._last_stream = 0

    def made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there: connect upstream."""
        self._port.keep_alive(transport)
        if not self.relay.admit(self):
            self.client.close()
            return
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        upstream = self.listener.upstream
        try:
            async with asyncio.timeout(self.relay.config.connect_timeout.total_seconds()):
                await self._port.connect_upstream(lambda: self.server)
        except TimeoutError:
            self.refuse(f"upstream {upstream} did not answer the connection in time")
        except OSError as error:
            self.refuse(f"upstream {upstream} cannot be reached: {error.strerror or error}")
        else:
            if self.client.closed:
                self.server.close()
            elif self.client.transport is not None:
                self.client.transport.resume_reading()

    # -- streams

    def begin(self, stream_id: int, call: Call | None) -> Stream:
        """A stream's first HEADERS have come."""
        if stream_id > self._last_stream:
            self._last_stream = stream_id
        self.relay.calls[call is not None] += 1
        if self.responses is None or call is None:
            stream = Stream(self, stream_id, call)
        elif self.relay.asks and self.relay.guard.edits(call):
            stream = AskingStream(self, stream_id, call)
        else:
            stream = HeldStream(self, stream_id, call)
        self.streams[stream_id] = stream
        if self.responses is not None and self.requests is not None:
            self.responses.open(stream_id)
            self.requests.open(stream_id)
        return stream

    def end(self, stream_id: int) -> None:
        """A stream has ended in both directions, or was reset."""
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return
        stream.drop()
        if self.responses is not None and not self.responses.blocked(stream_id):
            self._close_lanes(stream_id)
        if not self.streams:
            self.idle_since = self.relay.now()
            if self._draining or self.client.half_closed:
                # Not now: what this turn has read may not be written yet.
                asyncio.get_running_loop().call_soon(self._close_when_idle)

    def forsake(self, stream_id: int) -> None:
        """The client has reset a stream: nothing that waits for it is wanted any more."""
        if self.responses is not None and self.from_server is not None:
            self.responses.close(stream_id)
            self.from_server.settle(stream_id, ended=True)
        self.end(stream_id)

    def settled(self, stream_id: int) -> None:
        """A held stream has sent its last, or has queued it."""
        self.end(stream_id)
        self.written()
        if self.server.closed:
            self.upstream_lost("")

    def replaced(self, stream_id: int, *, upstream_ended: bool) -> None:
        """The relay has ended a stream towards the client; the upstream's part of it is not wanted any more."""
        self.remember(stream_id)
        if not upstream_ended:
            self.server.put(frames.reset(stream_id, frames.CANCEL))
            self.server.write()
        self.settled(stream_id)

    def refuse_stream(self, stream_id: int, status: str, reason: str, *, ended: bool) -> None:
        """Answer a new stream without asking the upstream."""
        self._last_stream = max(self._last_stream, stream_id)
        self.client.put(refused(stream_id, status, reason))
        if not ended:
            self.remember(stream_id)
            self.client.put(frames.reset(stream_id, frames.NO_ERROR))
        self.written()

    def remember(self, stream_id: int) -> None:
        """The relay has ended a stream itself: frames of it that still come are for nobody."""
        self.gone[stream_id] = True
        if len(self.gone) > REMEMBERED:
            del self.gone[next(iter(self.gone))]

    def _close_lanes(self, stream_id: int) -> None:
        assert self.responses is not None and self.from_server is not None
        assert self.requests is not None and self.from_client is not None
        self.responses.close(stream_id)
        self.from_server.close(stream_id)
        self.requests.close(stream_id)
        self.from_client.close(stream_id)

    def upstream_caught_up(self, streams: list[int]) -> None:
        """The upstream has made room, and nothing waits any more of these requests."""
        for stream_id in streams:
            assert self.from_client is not None
            stream = self.streams.get(stream_id)
            self.from_client.settle(stream_id, ended=stream is None or stream.request_ended)
        self.server.write()

    def client_caught_up(self, streams: list[int]) -> None:
        """The client has made room, and nothing waits any more of these responses."""
        for stream_id in streams:
            assert self.from_server is not None
            stream = self.streams.get(stream_id)
            self.from_server.settle(stream_id, ended=stream is None or stream.response_ended)
            if stream is None:
                self._close_lanes(stream_id)
        if streams:
            self.server.write()
            if self.server.closed:
                self.upstream_lost("")
            elif not self.streams and (self._draining or self.client.half_closed):
                asyncio.get_running_loop().call_soon(self._close_when_idle)

    # -- writing

    def submit(self, call: Call, stream: Stream) -> None:
        """Judge a response; where that happens within a few turns of the loop, what follows is written after it."""
        batcher = self.relay.batcher
        batcher.submit(call, stream)
        if batcher.inline and self.relay.annotates and not self._deferred:
            self._deferred = True
            self.relay.after_flush.append(self)

    def released(self, stream_id: int, held: list[bytes]) -> None:
        """A stream's held frames may go: it has ended."""
        for whole in held:
            if self.responses is not None:
                self.responses.follow(stream_id, whole)
            else:
                self.client.put(whole)
        self.settled(stream_id)

    def written(self) -> None:
        """Something was put for the client: write it, unless verdicts of this batch are still to come."""
        if not self._deferred:
            self.client.write()

    def written_after_flush(self) -> None:
        """The batch is judged: write what waited for it."""
        self._deferred = False
        self.flush(self.client)

    def flush(self, side: Side) -> None:
        """Write what waits for a side, unless it waits for a verdict of this batch."""
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
        self.relay.upstream_failed(reason)
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
        answer = unavailable(stream_id, self.refusing, answered=stream.answered)
        if self.responses is not None:
            self.responses.follow(stream_id, answer)
        else:
            self.client.put(answer)
        stream.drop()

    def upstream_lost(self, reason: str) -> None:
        """The upstream has closed: once nothing waits, end the open calls and close the client's side."""
        if self.client.closed or any(stream.holding for stream in self.streams.values()):
            return
        if self.streams and self.server.between_frames and not self.raw:
            self.refusing = reason or f"upstream {self.listener.upstream} closed the connection"
            for stream_id in list(self.streams):
                self._answer_unavailable(stream_id)
            self.client.put(frames.goaway(self._last_stream, frames.NO_ERROR, "upstream closed"))
        self._deferred = False
        if self.responses is not None and self.responses.waiting and self.server.between_frames:
            self.client.write()
            return  # what the client has no room for yet still goes out
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

    def outdate(self) -> None:
        """The configuration asks for another kind of connection: let this one's calls finish, and take no new ones."""
        self.outdated = True
        self.drain()

    def abort(self, side: Side, error: FrameError) -> None:
        """A peer broke the protocol: tell it, as its peer would, and close both sides."""
        self.relay.not_understood["malformed"] += 1
        if side.peer.between_frames:
            side.out.append(frames.goaway(self._last_stream, error.code, f"{error}"))
        self.close()

    def _close_when_idle(self) -> None:
        if self.streams or (self.responses is not None and self.responses.waiting):
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
        for outflow in (self.responses, self.requests):
            if outflow is not None:
                outflow.drop()
        self.relay.connections.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        self.server.close()
        if self.server.closed or (self.refusing and self.server.transport is None):
            self.part()

    def part(self) -> None:
        """Both sides are gone, and nothing comes from them any more: what they hold is given back at once, instead of
        when the collector finds that they hold each other.
        """
        del self.client.connection, self.server.connection
