"""The two sockets of a connection, as asyncio knows them."""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

from tocsin.memory import MemoryAccount

# Bytes of one read behind which others get their turn: an event loop goes on reading one socket for as long as it can.
LARGE_READ: Final = 1 << 16
# Bytes that the system takes of what the peer has no room for yet: by default it takes megabytes, all of which would
# have been read and judged for a peer that may never read them.
MOST_UNSENT: Final = 1 << 16


class SideHost:
    """A connection, as its sockets know it."""

    memory: MemoryAccount

    def on_connected(self, side: Side) -> None:
        """There is a socket."""
        raise NotImplementedError

    def on_data(self, side: Side, data: bytes) -> None:
        """Bytes have come."""
        raise NotImplementedError

    def on_half_closed(self, side: Side) -> bool:
        """The peer writes no more; whether it may still be written to."""
        raise NotImplementedError

    def on_closed(self, side: Side) -> None:
        """The socket is gone."""
        raise NotImplementedError

    def on_paused(self, side: Side, *, is_paused: bool) -> None:
        """The peer reads too slowly, or has caught up."""
        raise NotImplementedError


class Side:
    """A socket, or one that is to be: what is written before waits for it."""

    def __init__(self, host: SideHost) -> None:
        self._host = host
        self.transport: asyncio.Transport | None = None
        self.is_closed = False
        self.is_paused = False
        self._waiting: list[bytes] = []
        self._unsent = 0  # bytes that the socket does not take, as they were charged
        self._is_reading = True
        self._is_resting = False  # until the next turn of the event loop
        self._ends = False  # nothing more is written

    @property
    def unsent(self) -> int:
        """Bytes that wait for a socket."""
        return sum([len(part) for part in self._waiting]) if self._waiting else 0

    def write(self, content: bytes) -> None:
        """Send bytes."""
        if self.transport is None:
            if not self.is_closed:
                self._waiting.append(content)
        elif not self._ends and not self.transport.is_closing():
            self.transport.write(content)

    def read(self, *, reads: bool) -> None:
        """Read on, or not for now."""
        transport = self.transport
        if reads == self._is_reading or transport is None or transport.is_closing():
            return
        self._is_reading = reads
        if not reads:
            transport.pause_reading()
        elif not self._is_resting:
            transport.resume_reading()

    def _rest(self) -> None:
        """Read no more in this turn of the event loop."""
        if self.transport is None or self.transport.is_closing() or self._is_resting:
            return
        self._is_resting = True
        if self._is_reading:
            self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._is_resting = False
        transport = self.transport
        if self._is_reading and transport is not None and not transport.is_closing():
            transport.resume_reading()

    def end_writing(self) -> None:
        """Nothing more is written."""
        self._ends = True
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()

    def close(self) -> None:
        """Write what waits, then close the socket."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close the socket at once."""
        if self.transport is not None:
            self.transport.abort()

    # -- an asyncio protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a socket."""
        self.transport = cast(asyncio.Transport, transport)
        _limit_unsent(transport)
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.transport.write(b"".join(waiting))
        if self._ends:
            self.end_writing()
        self._host.on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the socket."""
        self._host.on_data(self, data)
        if len(data) >= LARGE_READ:
            self._rest()

    def eof_received(self) -> bool:
        """The peer writes no more."""
        return self._host.on_half_closed(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        self.is_closed = True
        self._host.memory.release(self._unsent)
        self._unsent = 0
        self._host.on_closed(self)

    def pause_writing(self) -> None:
        """The peer reads slowly."""
        self.is_paused = True
        if self.transport is not None:
            self._unsent = self.transport.get_write_buffer_size()
            self._host.memory.charge(self._unsent)
        self._host.on_paused(self, is_paused=True)

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self.is_paused = False
        self._host.memory.release(self._unsent)
        self._unsent = 0
        self._host.on_paused(self, is_paused=False)


def _limit_unsent(transport: asyncio.BaseTransport) -> None:
    """Have the system take no more than `MOST_UNSENT` bytes that it cannot send yet, where it knows such a limit."""
    peer = transport.get_extra_info("socket")
    if peer is not None and peer.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT)
