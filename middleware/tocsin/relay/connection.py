"""A client's connection and its upstream connection: how they begin, what is written to them, and how they end."""

from __future__ import annotations

import asyncio
from typing import Final

from tocsin.http2 import frames
from tocsin.http2.frames import ACK, SETTINGS, FrameError
from tocsin.judgement.batching import VerdictCallback
from tocsin.judgement.call import Call
from tocsin.relay.connection_streams import ConnectionStreams
from tocsin.relay.context import RelayContext
from tocsin.relay.endpoint import Endpoint
from tocsin.relay.goaway import GoawayLimit
from tocsin.relay.listening import Port
from tocsin.relay.local_reply import unavailable_trailers
from tocsin.relay.scorer_queue import ScorerQueue
from tocsin.relay.tls import connecting_fault
from tocsin.verdict import USUAL_LIST_SIZE

REFUSAL_TIMEOUT: Final = 1.0  # seconds in which a client whose upstream is down may still ask, to be told why
REFUSAL_LINGER: Final = 0.1  # seconds to let it read the answer
CUT_OFF_LINGER: Final = 1.0  # seconds to let a client read why it is cut off


class Connection(ConnectionStreams):
    """Both sides of a connection: how they begin, what is written to them, and how they end."""

    __slots__ = (
        "_connecting", "_draining", "_goaway_owed", "_held_after_loss", "_is_cut_off", "_port", "_scorer_queue",
        "goaway", "idle_since", "is_passthrough", "is_retiring", "largest_frame", "largest_list", "listener", "model",
        "name", "upstream_address", "upstream_error", "upstream_tls",
    )  # fmt: skip

    def __init__(self, context: RelayContext, port: Port) -> None:
        super().__init__(context, context.memory.open(self._evicted))
        self.listener = port.listener
        self.upstream_address = port.listener.upstream
        self.upstream_tls = port.listener.upstream_tls
        self.model = port.listener.model
        self.name = context.name_connection()
        self._port = port
        self.largest_frame = frames.DEFAULT_MAX_FRAME_SIZE
        self.largest_list = USUAL_LIST_SIZE
        self.upstream_error = ""  # why the upstream is not there
        self.is_retiring = False  # begun under a configuration that asked for less
        self.is_passthrough = False  # not HTTP/2: bytes pass unread
        self.idle_since = context.now()
        self._draining = False
        self._goaway_owed = False
        self._connecting: asyncio.Task[None] | None = None
        self.goaway = GoawayLimit()
        self._is_cut_off = False
        self._scorer_queue = ScorerQueue(context, self.memory)
        self._held_after_loss: set[int] = set()  # calls that wait for verdicts, while the upstream is gone

    # -- beginning

    @property
    def is_greeted(self) -> bool:
        return self.downstream.greeted

    def leads_to(self, port: object) -> bool:
        return port is self._port and self.upstream.transport is not None and not self.upstream.is_closed

    def on_connected(self, transport: asyncio.BaseTransport) -> None:
        """The client has connected: connect to the upstream."""
        self._port.keep_alive(transport)
        if not self.context.open.admit(self):
            self.downstream.close()
            return
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        upstream = self.upstream_address
        try:
            async with asyncio.timeout(self.context.config.connect_timeout.total_seconds()):
                await self._port.connect_upstream(lambda: self.upstream)
        except TimeoutError:
            self.refuse(f"upstream {upstream} did not answer the connection in time")
        except OSError as error:
            why = self.context.descriptors.explain(error) or f"upstream {upstream} cannot be reached"
            self.refuse(f"{why}: {connecting_fault(error)}")
        else:
            if self.downstream.is_closed:
                self.upstream.close()
            elif self.downstream.transport is not None:
                self.downstream.transport.resume_reading()

    # -- streams

    def end(self, stream_id: int) -> None:
        if not self.close_stream(stream_id):
            return
        if stream_id in self._held_after_loss:
            self._held_after_loss.discard(stream_id)
            if not self._held_after_loss:  # not now: what this turn has to say of the stream may not be said yet
                asyncio.get_running_loop().call_soon(self.upstream_lost, "")
        if not self.streams:
            self.idle_since = self.context.now()
            if self._draining or self.downstream.half_closed:
                # Not now: what this turn has read may not be written yet.
                asyncio.get_running_loop().call_soon(self.close_when_idle)

    def on_response_done(self, stream_id: int) -> None:
        self.end(stream_id)
        if self.upstream.is_closed:
            self.upstream_lost("")

    # -- judging and writing

    def submit(self, call: Call, waiting: VerdictCallback) -> bool:
        context = self.context
        batcher = context.batcher
        if not batcher.inline:
            self._scorer_queue.submit(call, waiting)
            return False
        batcher.submit(call, waiting)
        if context.annotates:
            self.flush_after_batch()
        return True

    def flush(self, side: Endpoint) -> None:
        if side is self.downstream:
            if self._goaway_owed and self.upstream.between_frames:
                self._goaway_owed = False
                side.out.append(self.goaway.frame(frames.LAST_STREAM, frames.NO_ERROR, "draining"))
            if self._deferred:
                return
        side.write()

    # -- ends

    def refuse(self, reason: str) -> None:
        """The upstream cannot be reached: answer the client's requests with UNAVAILABLE and the reason, then close.

        The connection closes after the first answer, so that the client's next call opens a new one and finds the
        upstream if it is back.
        """
        self.upstream_error = reason
        self.context.upstream_failed(reason)
        self._port.doubt_upstream()
        if self.is_passthrough:  # which has no words for it that the relay knows
            self.close()
            return
        if self.downstream.greeted:
            self.greet_refused()
        self.downstream.write()
        if self.downstream.transport is not None and not self.downstream.is_closed:
            self.downstream.transport.resume_reading()
        asyncio.get_running_loop().call_later(REFUSAL_TIMEOUT, self.close)

    def greet_refused(self) -> None:
        """Send the settings of the missing server to a client that speaks HTTP/2."""
        self.downstream.out += [frames.frame(SETTINGS, 0, 0), frames.frame(SETTINGS, ACK, 0)]
        self.answer_refused()

    def answer_refused(self) -> None:
        """End the open streams with UNAVAILABLE towards the client, and accept no more on this connection."""
        if not self.streams:
            return
        self._answer_unavailable()
        if self.streams:
            return  # their responses wait for verdicts, and then go out
        self.downstream.out.append(self.goaway.frame(self.last_stream, frames.NO_ERROR, "upstream is unavailable"))
        asyncio.get_running_loop().call_later(REFUSAL_LINGER, self.close)

    def _answer_unavailable(self) -> None:
        """End the open streams with UNAVAILABLE towards the client, except those whose response has come."""
        for stream_id, stream in list(self.streams.items()):
            if stream.holding:
                continue
            del self.streams[stream_id]
            answer = unavailable_trailers(stream_id, self.upstream_error, headers_sent=stream.headers_sent)
            self.put_after_data(stream_id, answer)
            stream.drop()

    def doubt_upstream(self) -> None:
        """The connection to the model server has ended."""
        self._port.doubt_upstream()

    def upstream_lost(self, reason: str) -> None:
        """The upstream has closed: when nothing waits any more, end the open calls and close the client's side."""
        if self.downstream.is_closed or self._held_after_loss:
            return
        if self.streams and self.upstream.between_frames and not self.is_passthrough:
            self.upstream_error = reason or f"upstream {self.upstream_address} closed the connection"
            self._answer_unavailable()
            if self.streams:
                self._held_after_loss = set(self.streams)
                self.flush(self.downstream)
                return
            self.downstream.put(self.goaway.frame(self.last_stream, frames.NO_ERROR, "upstream closed"))
        self._deferred = False
        if self.responses_wait and self.upstream.between_frames:
            self.downstream.write()
            return  # what the client has no room for yet still goes out
        self.downstream.close()

    def drain(self) -> None:
        if self._draining or self.downstream.is_closed:
            return
        self._draining = True
        if self.is_passthrough:
            return  # there is no saying where it could be cut: it has until the end of draining
        if not self.streams:
            self.close_when_idle()
            return
        self._goaway_owed = True
        self.flush(self.downstream)

    def retire(self) -> None:
        self.is_retiring = True
        self.drain()

    def abort(self, side: Endpoint, error: FrameError) -> None:
        self.context.not_understood["malformed"] += 1
        if side.peer.between_frames:
            if side is self.downstream:
                side.out.append(self.goaway.frame(self.last_stream, error.code, f"{error}"))
            else:
                side.out.append(frames.goaway(0, error.code, f"{error}"))
        self.close()

    def _evicted(self) -> None:
        self.cut_off("memory", "more is kept for this connection than there is memory for")

    def cut_off(self, limit: str, reason: str) -> None:
        if self._is_cut_off:
            return
        self._is_cut_off = True
        self.context.limited[limit] += 1
        self.memory.close()
        self._deferred = False
        client, server = self.downstream.transport, self.upstream.transport
        if server is not None:
            server.abort()
        if client is None:
            return
        if self.downstream.is_paused or not self.upstream.between_frames or client.is_closing():
            client.abort()
            return
        client.write(self.goaway.frame(self.last_stream, frames.ENHANCE_YOUR_CALM, reason))
        client.close()
        asyncio.get_running_loop().call_later(CUT_OFF_LINGER, client.abort)

    def end_requests(self) -> None:
        """The client writes no more: tell the upstream, once nothing waits for it."""
        if self.downstream.half_closed and not self.requests_wait:
            self.upstream.end_writing()

    def close_when_idle(self) -> None:
        """Close once no call is under way, and nothing waits that could still go out."""
        if self.streams or (self.responses_wait and (self.may_write_on or not self.downstream.half_closed)):
            return  # a client that has left can open no window, but the socket may still take something
        if self._draining and self.upstream.between_frames:
            # Names the last stream that was served, so that a client may safely send later ones elsewhere.
            self.downstream.out.append(self.goaway.frame(self.last_stream, frames.NO_ERROR, "draining"))
        self.close()

    def close_if_left(self) -> None:
        """Nothing waits for the client any more: close, where that was all that kept the connection open."""
        if self.upstream.is_closed:
            self.upstream_lost("")
        elif not self.streams and (self._draining or self.downstream.half_closed):
            asyncio.get_running_loop().call_soon(self.close_when_idle)

    def close(self) -> None:
        self._deferred = False
        self.downstream.close()
        self.upstream.close()

    def on_downstream_closed(self) -> None:
        """The client is gone: so is everything of this connection."""
        for stream in self.streams.values():
            stream.drop()
        self.streams.clear()
        self.on_client_gone()
        self.memory.close()
        self.context.connections.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        self.upstream.close()
        if self.upstream.is_closed or (self.upstream_error and self.upstream.transport is None):
            self.break_cycle()

    def break_cycle(self) -> None:
        """Both sides are gone, and nothing comes from them any more: what they hold is given back at once, instead of
        when the collector finds that they hold each other.
        """
        self.downstream.break_cycle()
        self.upstream.break_cycle()
