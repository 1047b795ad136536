"""Connections whose responses are held or changed: the relay keeps flow control itself, in both directions."""

from __future__ import annotations

from tocsin.http2 import frames
from tocsin.http2.frames import ACK, END_STREAM, PING
from tocsin.http2.receive_window import GUARANTEED_WINDOW, STREAM_WINDOW, pass_on
from tocsin.judgement.call import Call
from tocsin.relay.asking import AskingStream
from tocsin.relay.connection import Connection
from tocsin.relay.context import RelayContext
from tocsin.relay.downstream import Downstream
from tocsin.relay.endpoint import Endpoint
from tocsin.relay.holding import HeldStream
from tocsin.relay.listening import Port
from tocsin.relay.stream import Stream
from tocsin.relay.upstream import Upstream
from tocsin.relay.windows import Windows


class ManagedConnection(Connection):
    """Both peers are given windows by the relay, and what goes to them keeps to theirs."""

    __slots__ = ("windows",)

    def __init__(self, context: RelayContext, port: Port) -> None:
        super().__init__(context, port)
        self.downstream, self.upstream = downstream, upstream = ManagedDownstream(self), ManagedUpstream(self)
        downstream.peer, upstream.peer = upstream, downstream
        self.windows = windows = Windows(downstream, upstream, self.memory)
        downstream.manage(windows)
        upstream.manage(windows)

    def stream_of(self, stream_id: int, call: Call | None, *, asks: bool) -> Stream:
        self.windows.open(stream_id)
        if call is None:
            return Stream(self, stream_id, None)
        if asks and self.context.guard.edits(call):
            return AskingStream(self, stream_id, call, self.windows)
        return HeldStream(self, stream_id, call, self.windows)

    def put_after_data(self, stream_id: int, frame: bytes) -> None:
        self.windows.responses.enqueue_after_data(stream_id, frame)

    @property
    def responses_wait(self) -> bool:
        return self.windows.responses.waiting > 0

    @property
    def requests_wait(self) -> bool:
        return self.windows.requests.waiting > 0

    @property
    def may_write_on(self) -> bool:
        return self.windows.responses.may_go_on

    def on_stream_closed(self, stream_id: int) -> None:
        windows = self.windows
        if not windows.responses.blocked(stream_id):
            windows.close(stream_id)

    def on_stream_unwanted(self, stream_id: int) -> None:
        self.windows.reset(stream_id)

    def on_client_gone(self) -> None:
        self.windows.drop()

    def caught_up(self, side: Endpoint) -> None:
        if side is self.downstream:
            self.client_caught_up(self.windows.responses.pump())
            self.request_flush()
        else:
            self.upstream_caught_up(self.windows.requests.pump())

    def upstream_caught_up(self, streams: list[int]) -> None:
        """The upstream has made room, and nothing waits any more of these requests."""
        from_client = self.windows.from_client
        for stream_id in streams:
            stream = self.streams.get(stream_id)
            from_client.release_credit(stream_id, ended=stream is None or stream.request_ended)
        from_client.resume()
        self.upstream.write()
        if self.downstream.half_closed:
            self.end_requests()
        if self.downstream.out:
            self.flush(self.downstream)

    def client_caught_up(self, streams: list[int]) -> None:
        """The client has made room, and nothing waits any more of these responses."""
        from_server = self.windows.from_server
        from_server.resume()
        for stream_id in streams:
            stream = self.streams.get(stream_id)
            from_server.release_credit(stream_id, ended=stream is None or stream.response_ended)
            if stream is None:
                self.windows.close(stream_id)
        self.upstream.write()
        if streams:
            self.close_if_left()


class ManagedDownstream(Downstream):
    """A client that keeps to the relay's windows, and whose own the relay keeps."""

    __slots__ = ("_windows",)
    __deletable__ = ("_windows",)

    _windows: Windows

    def manage(self, windows: Windows) -> None:
        """Use these from here on."""
        self._windows, self.send_window, self.preserves_order = windows, windows.responses, True

    def settings_of(self, payload: bytes, wanted: dict[int, int]) -> bytes:
        self._windows.responses.announced(wanted.get(frames.INITIAL_WINDOW_SIZE))
        return frames.stateless_settings(payload, STREAM_WINDOW) + self._windows.from_server.begin()

    def on_settings_acknowledged(self, frame: bytes) -> bytes | None:
        self.peer.put(frame)
        self._managed().upstream_caught_up(self._windows.requests.acknowledged())
        return b""

    def on_window_update(self, stream: int, frame: bytes) -> bytes | None:
        finished = self._windows.responses.credit(stream, frame[frames.HEADER_SIZE :])
        self._managed().client_caught_up(finished)
        return b""

    @property
    def answers_pings(self) -> bool:
        return True

    @property
    def settings_cost(self) -> int:
        return self._windows.responses.streams_waiting

    def data(self, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        connection = self.connection
        if payload:
            connection.data_frames += 1
        else:
            self.count_empty(flags, length)
        open_stream = connection.streams.get(stream)
        from_client = self._windows.from_client
        if from_client.later or length > GUARANTEED_WINDOW or from_client.uncredited > GUARANTEED_WINDOW:
            from_client.admit(stream, length)
        if open_stream is None:
            self._drop(stream, size)
            return True
        if open_stream.request_ended:  # nothing has a place behind the end
            from_client.credit(stream, size, ended=True)
            return True
        ended = bool(flags & END_STREAM)
        if ended:
            open_stream.request_ended = True
        if isinstance(open_stream, AskingStream) and open_stream.take_request(payload, ended):
            from_client.credit(stream, size, ended=ended)  # `max_memory` bounds what it keeps
            return True
        if open_stream.call is not None:
            open_stream.request_data(payload)
        requests = self._windows.requests
        if requests.try_consume(stream, length):
            from_client.credit(stream, size, ended=ended)
            return False
        pass_on(requests, from_client, stream, payload, size, flags)
        return True

    def _drop(self, stream: int, size: int) -> None:
        """DATA of a stream that has ended, of which so much has come."""
        connection = self.connection
        connection.check_begun(stream)
        if stream not in connection.closed_streams:
            # The upstream has answered before it was asked all, and knows no end.
            connection.mark_closed(stream)
            connection.upstream.put(frames.reset(stream, frames.CANCEL))
        self._windows.from_client.credit(stream, size, ended=True)

    def more_data(self, stream: int, flags: int, payload: bytes, size: int, is_taken: bool) -> None:
        open_stream = self.connection.streams.get(stream)
        requests, from_client = self._windows.requests, self._windows.from_client
        ended = bool(flags & END_STREAM)
        if open_stream is None or open_stream.request_ended:
            from_client.credit(stream, size, ended=True)
            return
        if is_taken and isinstance(open_stream, AskingStream) and open_stream.take_request(payload, ended):
            from_client.credit(stream, size, ended=ended)
        else:
            if open_stream.call is not None:
                open_stream.request_data(payload)
            if is_taken:
                pass_on(requests, from_client, stream, payload, size, flags)
            else:
                from_client.credit(stream, size, ended=ended)
        if ended:
            open_stream.request_ended = True

    def break_cycle(self) -> None:
        super().break_cycle()
        del self._windows

    def _managed(self) -> ManagedConnection:
        connection = self.connection
        assert isinstance(connection, ManagedConnection)
        return connection


class ManagedUpstream(Upstream):
    """An upstream that keeps to the relay's windows, and whose own the relay keeps."""

    __slots__ = ("_windows",)
    __deletable__ = ("_windows",)

    _windows: Windows

    def manage(self, windows: Windows) -> None:
        """Use these from here on."""
        self._windows, self.send_window, self.preserves_order = windows, windows.requests, True

    def is_for_nobody(self, stream: int) -> bool:
        # None passes that belongs to no call; not even after the upstream has reset it.
        return True

    def data_waits(self, stream: int) -> bool:
        return self._windows.responses.blocked(stream)

    def settings_of(self, payload: bytes, wanted: dict[int, int]) -> bytes:
        self._windows.requests.announced(wanted.get(frames.INITIAL_WINDOW_SIZE))
        return frames.stateless_settings(payload, STREAM_WINDOW) + self._windows.from_client.begin()

    def on_settings_acknowledged(self, frame: bytes) -> bytes | None:
        self.peer.put(frame)
        self._managed().client_caught_up(self._windows.responses.acknowledged())
        return b""

    def on_window_update(self, stream: int, frame: bytes) -> bytes | None:
        finished = self._windows.requests.credit(stream, frame[frames.HEADER_SIZE :])
        self._managed().upstream_caught_up(finished)
        return b""

    def on_ping(self, flags: int, frame: bytes) -> bytes | None:
        if not flags & ACK:
            self.reply(frames.frame(PING, ACK, 0, frame[frames.HEADER_SIZE :]))
        return b""

    def data(self, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        connection = self.connection
        connection.data_frames += 1
        open_stream = connection.streams.get(stream)
        responses, from_server = self._windows.responses, self._windows.from_server
        if from_server.later or length > GUARANTEED_WINDOW or from_server.uncredited > GUARANTEED_WINDOW:
            from_server.admit(stream, length)
        if open_stream is None or open_stream.response_ended:
            from_server.credit(stream, size, ended=True)
            return True
        ended = bool(flags & END_STREAM)
        if isinstance(open_stream, HeldStream):
            open_stream.take(payload, size, ended)
            return True
        passes = responses.try_consume(stream, length)
        if passes:
            from_server.credit(stream, size, ended=ended)
        else:
            pass_on(responses, from_server, stream, payload, size, flags)
        if ended:
            connection.end(stream)
        return not passes

    def more_data(self, stream: int, flags: int, payload: bytes, size: int, is_taken: bool) -> None:
        open_stream = self.connection.streams.get(stream)
        responses, from_server = self._windows.responses, self._windows.from_server
        if open_stream is None or open_stream.response_ended:  # nothing has a place behind the end
            from_server.credit(stream, size, ended=True)
            return
        ended = bool(flags & END_STREAM)
        if isinstance(open_stream, HeldStream):
            open_stream.take(payload, size, ended)
            return
        if is_taken:
            pass_on(responses, from_server, stream, payload, size, flags)
        else:
            from_server.credit(stream, size, ended=ended)
        if ended:
            self.connection.end(stream)

    def break_cycle(self) -> None:
        super().break_cycle()
        del self._windows

    def _managed(self) -> ManagedConnection:
        connection = self.connection
        assert isinstance(connection, ManagedConnection)
        return connection
