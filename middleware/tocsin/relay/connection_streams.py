"""The streams between a client's connection and its upstream connection, which have the same ids on both."""

from __future__ import annotations

from typing import Final

from tocsin.http2 import frames
from tocsin.http2.frames import FrameError, StreamError
from tocsin.judgement.call import Call
from tocsin.memory import FREE_STREAMS, MemoryAccount, StreamAllowance
from tocsin.relay.context import RelayContext
from tocsin.relay.endpoint import Endpoint, EndpointHost
from tocsin.relay.local_reply import refused_trailers
from tocsin.relay.stream import Stream

STREAM_BYTES: Final = 1_536  # that an open stream takes, without what waits in it
MAX_CLOSED_STREAMS: Final = 1_024  # streams ended by the relay, of which frames may still come


class ConnectionStreams(EndpointHost):
    """The streams that are under way, and those that the relay has ended while frames of them may still come.

    There are two kinds: where bytes pass as they come (`transparent`), flow control is left to the peers; where
    responses are held or changed (`managed`), the relay does it itself.
    """

    __slots__ = (
        "_deferred", "allowance", "closed_streams", "context", "data_frames", "downstream", "last_stream", "memory",
        "pings_to_client", "streams", "upstream",
    )  # fmt: skip

    downstream: Endpoint
    upstream: Endpoint

    def __init__(self, context: RelayContext, memory: MemoryAccount) -> None:
        self.context = context
        self.memory = memory
        self.allowance = StreamAllowance(memory, STREAM_BYTES)
        self.streams: dict[int, Stream] = {}
        self.closed_streams: dict[int, bool] = {}  # streams that the relay has ended itself
        self.last_stream = 0
        self.data_frames = 0  # in either direction, of guarded calls and others
        self._deferred = False  # what the client gets is written after this batch of verdicts
        self.pings_to_client = 0  # which it has not answered yet

    # -- what the two kinds do differently

    def stream_of(self, stream_id: int, call: Call | None, *, asks: bool) -> Stream:
        """A new stream. `asks`: its request may be changed to ask for more."""
        raise NotImplementedError

    def put_after_data(self, stream_id: int, frame: bytes) -> None:
        """Write a frame of a stream to the client, after its DATA."""
        raise NotImplementedError

    @property
    def responses_wait(self) -> bool:
        """Whether something waits for the client's windows."""
        return False

    @property
    def requests_wait(self) -> bool:
        """Whether something waits for the upstream's windows."""
        return False

    @property
    def may_write_on(self) -> bool:
        """Whether something waits only for the client's socket."""
        return False

    def on_stream_closed(self, stream_id: int) -> None:
        """A stream has ended."""

    def on_stream_unwanted(self, stream_id: int) -> None:
        """The client needs nothing more of a stream."""

    def on_client_gone(self) -> None:
        """Nothing is written to the client any more."""

    # -- what is written

    def request_flush(self) -> None:
        if not self._deferred:
            self.downstream.write()

    def flush_after_batch(self) -> None:
        if not self._deferred:
            self._deferred = True
            self.context.after_flush.append(self)

    def written_after_flush(self) -> None:
        """The batch of verdicts is complete."""
        self._deferred = False
        self.flush(self.downstream)

    def write_upstream(self) -> None:
        self.upstream.write()

    # -- streams begin and end

    @property
    def open_streams(self) -> int:
        return len(self.streams)

    def begin(self, stream_id: int, call: Call | None, *, asks: bool) -> Stream:
        """A stream's first HEADERS have come. `asks`: its request may be changed to ask for more."""
        if stream_id > self.last_stream:
            self.last_stream = stream_id
        self.context.calls[call is not None] += 1
        stream = self.streams[stream_id] = self.stream_of(stream_id, call, asks=asks)
        return stream

    def close_stream(self, stream_id: int) -> bool:
        """Forget a stream that has ended; whether it was under way."""
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return False
        stream.drop()
        self.on_stream_closed(stream_id)
        if self.allowance.granted > FREE_STREAMS:
            self.allowance.shrink(len(self.streams))
        return True

    def end(self, stream_id: int) -> None:
        """A stream has ended in both directions, or was reset."""
        raise NotImplementedError

    def on_stream_reset(self, stream_id: int) -> None:
        """The client has reset a stream: drop what waits for it."""
        self.on_stream_unwanted(stream_id)
        self.end(stream_id)

    def replaced(self, stream_id: int, *, upstream_ended: bool) -> None:
        self.mark_closed(stream_id)
        if not upstream_ended:
            self.upstream.put(frames.reset(stream_id, frames.CANCEL))
            self.upstream.write()
        self.on_response_done(stream_id)
        self.request_flush()

    def release_trailers(self, stream_id: int, held: list[bytes]) -> None:
        for frame in held:
            self.put_after_data(stream_id, frame)
        self.on_response_done(stream_id)
        self.request_flush()

    def refuse_stream(self, stream_id: int, status: str, reason: str, *, ended: bool) -> None:
        """Answer a new stream without the upstream."""
        self.last_stream = max(self.last_stream, stream_id)
        answer = refused_trailers(stream_id, status, reason)
        if not ended:
            self.mark_closed(stream_id)
            answer += frames.reset(stream_id, frames.NO_ERROR)
        self.downstream.reply(answer)
        self.request_flush()

    def end_faulty_stream(self, side: Endpoint, error: StreamError) -> None:
        self.context.not_understood["malformed"] += 1
        self.mark_closed(error.stream)
        side.reply(frames.reset(error.stream, error.code))
        side.peer.put(frames.reset(error.stream, frames.CANCEL))
        self.on_stream_reset(error.stream)
        side.write()

    def is_new(self, stream_id: int) -> bool:
        """Whether a stream of that id may begin: ids are odd and grow. Raises FrameError where it cannot be one."""
        if not stream_id & 1:
            raise FrameError(frames.PROTOCOL_ERROR, f"a client begins stream {stream_id}")
        return stream_id > self.last_stream

    def check_begun(self, stream_id: int) -> None:
        """Raises FrameError where a client sends a frame of a stream that it has not begun."""
        if stream_id > self.last_stream or not stream_id & 1:
            raise FrameError(frames.PROTOCOL_ERROR, f"a frame of stream {stream_id}, which has not begun")

    def mark_closed(self, stream_id: int) -> None:
        """The relay has ended a stream itself: later frames of it are ignored."""
        self.last_stream = max(self.last_stream, stream_id)
        self.closed_streams[stream_id] = True
        if len(self.closed_streams) > MAX_CLOSED_STREAMS:
            del self.closed_streams[next(iter(self.closed_streams))]
