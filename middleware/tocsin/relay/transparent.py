"""Connections whose bytes pass as they come, in observe and annotate: windows are the peers' own affair."""

from __future__ import annotations

from tocsin.http2 import frames
from tocsin.http2.frames import ACK, END_STREAM, window_update
from tocsin.judgement.call import Call
from tocsin.relay.connection import Connection
from tocsin.relay.context import RelayContext
from tocsin.relay.downstream import Downstream
from tocsin.relay.listening import Port
from tocsin.relay.stream import Stream
from tocsin.relay.upstream import Upstream


class TransparentConnection(Connection):
    """Nothing is held but trailers, so that flow control stays end to end."""

    __slots__ = ()

    def __init__(self, context: RelayContext, port: Port) -> None:
        super().__init__(context, port)
        self.downstream, self.upstream = TransparentDownstream(self), TransparentUpstream(self)
        self.downstream.peer, self.upstream.peer = self.upstream, self.downstream

    def stream_of(self, stream_id: int, call: Call | None, *, asks: bool) -> Stream:
        return Stream(self, stream_id, call)

    def put_after_data(self, stream_id: int, frame: bytes) -> None:
        self.downstream.put(frame)


class TransparentDownstream(Downstream):
    """A client whose DATA and windows reach the upstream as they are."""

    __slots__ = ()

    def settings_of(self, payload: bytes, wanted: dict[int, int]) -> bytes:
        return frames.stateless_settings(payload)

    def on_settings_acknowledged(self, frame: bytes) -> bytes | None:
        return None

    def on_window_update(self, stream: int, frame: bytes) -> bytes | None:
        return None

    @property
    def answers_pings(self) -> bool:
        return False

    def data(self, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        connection = self.connection
        if payload:
            connection.data_frames += 1
        else:
            self.count_empty(flags, length)
        open_stream = connection.streams.get(stream)
        if open_stream is None:
            return self._is_for_nobody(stream, length)
        if open_stream.request_ended:  # nothing has a place behind the end, which the upstream sees as well
            return False
        if open_stream.call is not None:
            open_stream.request_data(payload)
        if flags & END_STREAM:
            open_stream.request_ended = True
        return False

    def more_data(self, stream: int, flags: int, payload: bytes, size: int, is_taken: bool) -> None:
        open_stream = self.connection.streams.get(stream)
        if open_stream is None or open_stream.request_ended:
            return
        if open_stream.call is not None:
            open_stream.request_data(payload)
        if flags & END_STREAM:
            open_stream.request_ended = True

    def _is_for_nobody(self, stream: int, length: int) -> bool:
        """DATA of a stream that has ended: whether it is dropped, because the relay has ended it."""
        connection = self.connection
        connection.check_begun(stream)
        if stream not in connection.closed_streams:
            return False
        if length:
            self.put(window_update(0, length))
        return True


class TransparentUpstream(Upstream):
    """An upstream whose DATA and windows reach the client as they are."""

    __slots__ = ()

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.joins_data = True

    def is_for_nobody(self, stream: int) -> bool:
        return stream in self.connection.closed_streams

    def data_waits(self, stream: int) -> bool:
        return False

    def settings_of(self, payload: bytes, wanted: dict[int, int]) -> bytes:
        return frames.stateless_settings(payload)

    def on_settings_acknowledged(self, frame: bytes) -> bytes | None:
        return None

    def on_window_update(self, stream: int, frame: bytes) -> bytes | None:
        return b"" if stream in self.connection.closed_streams else None

    def on_ping(self, flags: int, frame: bytes) -> bytes | None:
        if not flags & ACK:
            self.connection.pings_to_client += 1
        return None

    def data(self, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        connection = self.connection
        connection.data_frames += 1
        open_stream = connection.streams.get(stream)
        if open_stream is None:
            return False
        if open_stream.response_ended:
            return True
        if open_stream.call is not None:
            open_stream.response_data(payload)
        if flags & END_STREAM:
            connection.end(stream)
        return False

    def data_together(self, stream: int, data: bytes, places: list[tuple[int, int]]) -> bool:
        connection = self.connection
        connection.data_frames += len(places)
        open_stream = connection.streams.get(stream)
        if open_stream is None:
            return False
        if open_stream.response_ended:
            return True
        if open_stream.call is not None:
            open_stream.response_parts(data, places)
        return False

    def more_data(self, stream: int, flags: int, payload: bytes, size: int, is_taken: bool) -> None:
        open_stream = self.connection.streams.get(stream)
        if open_stream is None or is_taken:  # nothing has a place behind the end
            return
        if open_stream.call is not None:
            open_stream.response_data(payload)
        if flags & END_STREAM:
            self.connection.end(stream)
