"""The caller's socket, and the connection as it knows it."""

from __future__ import annotations

from tocsin.http_relay.caller_reader import CallerHost
from tocsin.http_relay.sides import Side, SideHost


class SocketOwner(CallerHost):
    """A connection, as its caller's socket knows it."""

    def on_received(self, data: bytes) -> None:
        """Bytes of the caller."""
        raise NotImplementedError

    def on_caller_half_closed(self) -> bool:
        """The caller writes no more; whether its response may still be sent."""
        raise NotImplementedError

    def on_caller_gone(self) -> None:
        """The caller is gone: so is everything of this connection."""
        raise NotImplementedError

    def on_caller_paused(self, *, is_paused: bool) -> None:
        """The caller reads too slowly, or has caught up."""
        raise NotImplementedError


class CallerSocket(SideHost):
    """Admits a caller's connection, and passes on what happens to its socket."""

    def __init__(self, connection: SocketOwner) -> None:
        self._connection = connection
        self.memory = connection.memory

    def on_connected(self, side: Side) -> None:
        connection = self._connection
        if side.transport is None:
            return
        connection.port.keep_alive(side.transport)
        if not connection.relay.open.admit(connection):
            side.close()

    def on_data(self, side: Side, data: bytes) -> None:
        self._connection.on_received(data)

    def on_half_closed(self, side: Side) -> bool:
        return self._connection.on_caller_half_closed()

    def on_closed(self, side: Side) -> None:
        self._connection.on_caller_gone()

    def on_paused(self, side: Side, *, is_paused: bool) -> None:
        self._connection.on_caller_paused(is_paused=is_paused)
