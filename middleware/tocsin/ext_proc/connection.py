"""One HTTP/2 connection from Envoy: its socket, its beginning and its end (RFC 9113).

Envoy opens one connection for each of its workers, and on it one stream for each exchange.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from tocsin.ext_proc.connection_streams import EnvoyStreams
from tocsin.ext_proc.hosts import ProcessorHost
from tocsin.http2 import frames
from tocsin.http2.frames import LAST_STREAM, SETTINGS, FrameError
from tocsin.http2.receive_window import STREAM_WINDOW
from tocsin.relay.fair_share import Flow

# Bytes of one read behind which others get their turn: an event loop goes on reading one socket for as long as it can.
LARGE_READ: Final = 1 << 16
# Turns of the loop whose replies are written together while more of a read waits: a write may cost as much as a turn.
TURNS_A_WRITE: Final = 8
MAX_CONCURRENT_STREAMS: Final = 0x3
MAX_HEADER_LIST_SIZE: Final = 0x6


class ExtProcConnection(EnvoyStreams):
    """One connection from an Envoy worker. Streams reply by `put`; `flush` writes what was put."""

    __slots__ = (
        "_flow", "_has_submitted", "_is_draining", "_out", "_rests", "_transport", "_turns", "is_reading", "name",
    )  # fmt: skip

    def __init__(self, server: ProcessorHost) -> None:
        super().__init__(server, server.memory.open(self._evict))
        self.name = server.name_connection()
        self.is_reading = False  # what is put now is written behind what is read in this turn
        self._flow = Flow(self._read_slice)
        self._transport: asyncio.Transport | None = None
        self._rests = False  # nothing is read of the socket for now
        self._has_submitted = False  # of what came last, to be judged
        self._turns = 0  # of the loop, since something was written
        self._out: list[bytes] = []
        self._is_draining = False

    # -- the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        if not self.server.admit(self):
            self._transport.abort()
            return
        limits = self.server.context.config.limits
        said = (
            (frames.HEADER_TABLE_SIZE, 0),
            (MAX_CONCURRENT_STREAMS, limits.streams),
            (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (MAX_HEADER_LIST_SIZE, self.server.longest_headers),
        )
        payload = b"".join([setting.to_bytes(2, "big") + value.to_bytes(4, "big") for setting, value in said])
        self.put(frames.frame(SETTINGS, 0, 0, payload))
        self.put(self.receive_window.begin())
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self.is_closed:
            return
        self._add(data)
        self.server.share.wake(self._flow)
        if self.is_behind:
            self._charge_received()
            self._rest()
        elif len(data) >= LARGE_READ and not self._rests:
            self._rest()
            self.server.loop.call_soon(self._read_on)

    def _read_slice(self) -> bool:
        """Read on in what has come, as far as this turn allows; whether there may be more of it."""
        if not self.is_closed:
            self._read_now()
        if self.is_closed:
            self._forget_received()
            return False
        self._charge_received()
        self._turns += 1
        if self.is_behind:
            if self._turns >= TURNS_A_WRITE:
                self.flush()
            return True
        if self._has_submitted:
            self._has_submitted = False
            self.server.is_awaited = True
        self.flush()
        if self._rests:
            self.server.loop.call_soon(self._read_on)
        if self._is_draining:
            self._close_when_idle()
        return False

    def _read_now(self) -> None:
        self.is_reading = True
        try:
            self._read_part()
        except FrameError as error:
            self._abort(error)
        finally:
            self.is_reading = False

    def on_submitted(self) -> None:
        if self.is_reading:
            self._has_submitted = True
        else:
            self.server.is_awaited = True

    def _rest(self) -> None:
        """Read nothing of the socket until others have had their turn, and what has come is handled."""
        if not self._rests and self._transport is not None and not self._transport.is_closing():
            self._rests = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._rests and not self.is_behind:
            self._rests = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.is_closed = True
        self._forget_received()
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.on_closed()
        self.send_window.drop()
        self.memory.close()
        self.server.on_connection_closed(self)

    def pause_writing(self) -> None:
        self._is_paused = self.send_window.is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = self.send_window.is_paused = False
        self.memory.release(self._unread)
        self._unread = 0
        self._go_on()

    def put(self, frame: bytes) -> None:
        self._out.append(frame)

    def flush(self) -> None:
        transport, out = self._transport, self._out
        self._turns = 0
        if not out or transport is None:
            return
        if transport.is_closing():
            out.clear()
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self.send_window.on_socket_written():
            self.server.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The socket has taken what was written, so that more may follow."""
        if not self.is_closed:
            self._caught_up(self.send_window.pump())
            self.flush()

    # -- the end

    def drain(self) -> None:
        if self.is_closed or self._is_draining:
            return
        self._is_draining = True
        self.put(frames.goaway(LAST_STREAM, frames.NO_ERROR))
        self.flush()
        self._close_when_idle()

    def close(self) -> None:
        if self._transport is not None and not self.is_closed:
            self.put(frames.goaway(self._last_stream, frames.NO_ERROR))
            self.flush()
            self._transport.close()

    def remove(self, stream_id: int) -> None:
        super().remove(stream_id)
        if self._is_draining:
            self._close_when_idle()

    def _close_when_idle(self) -> None:
        if self._is_draining and not self.streams and not self.is_behind and self._transport is not None:
            self.server.loop.call_later(self.server.LINGER, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self.streams and not self.is_behind:
            self.close()

    def _evict(self) -> None:
        """The memory budget is spent, and this connection uses most of it."""
        self.cut_off("memory")

    def cut_off(self, limit: str) -> None:
        self.server.context.limited[limit] += 1
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def _abort(self, error: FrameError) -> None:
        """Envoy broke the protocol: send GOAWAY and close."""
        self.server.context.not_understood["frame" if self.is_greeted else "not_http2"] += 1
        self.is_closed = True
        if self.is_greeted:
            self.put(frames.goaway(self._last_stream, error.code, str(error)))
        self.flush()
        if self._transport is not None:
            self._transport.close()
