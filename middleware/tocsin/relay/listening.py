"""One port of the relay: its socket, the certificates of both sides, and the way to the model server behind it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import Listener
from tocsin.errors import StartError
from tocsin.relay.connection import Connection
from tocsin.relay.side import Side
from tocsin.relay.tls import Certificates

if TYPE_CHECKING:
    from tocsin.relay.server import Relay

BACKLOG = 1024


class Port:
    """Listens, and makes a Connection of each client. Raises StartError from `start`."""

    def __init__(self, relay: Relay, listener: Listener) -> None:
        self.listener = listener
        self._relay = relay
        self._socket: socket.socket | None = None
        self._server: asyncio.AbstractServer | None = None
        self._certificates = Certificates(listener.tls, listener.upstream_tls)

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose for port 0."""
        if self.listener.listen.path or self._socket is None:
            return self.listener.listen
        return Address(self.listener.listen.host, self._socket.getsockname()[1])

    async def start(self) -> None:
        """Listen."""
        self._certificates.read()
        try:
            self._socket = self._bind()
        except OSError as error:
            raise StartError(f"cannot listen on {self.listener.listen}: {error.strerror or error}") from error
        await self._serve()

    async def renew(self, *, look: bool = True) -> bool:
        """Use certificates that have changed for new connections; whether there were any. `look`: only if their files
        are newer. Raises StartError when they cannot be used; then the old ones stay.
        """
        if look and not self._certificates.changed():
            return False
        self._certificates.read()
        before = self._server
        await self._serve()
        if before is not None:
            before.close()
        return True

    def close(self) -> None:
        """Take no new connections."""
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()

    async def connect_upstream(self, protocol: Callable[[], Side]) -> None:
        """One connection to the model server. Raises OSError."""
        loop = asyncio.get_running_loop()
        upstream = self.listener.upstream
        context, name = self._certificates.upstream, None
        if context is not None:
            named = self.listener.upstream_tls.name if self.listener.upstream_tls is not None else ""
            name = named or upstream.host or "localhost"
        if upstream.path:
            await loop.create_unix_connection(protocol, upstream.path, ssl=context, server_hostname=name)
            return
        transport, _ = await loop.create_connection(
            protocol, upstream.host, upstream.port, ssl=context, server_hostname=name
        )
        self.keep_alive(transport)

    def keep_alive(self, transport: asyncio.BaseTransport) -> None:
        """Let TCP find out when a silent peer is gone."""
        peer = transport.get_extra_info("socket")
        if peer is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
            return
        seconds = max(1, int(self._relay.config.limits.keepalive.total_seconds()))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", max(1, seconds // 3)), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    async def _serve(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        own = self._socket.dup()
        make = loop.create_unix_server if self.listener.listen.path else loop.create_server
        self._server = await make(self._accept, sock=own, backlog=BACKLOG, ssl=self._certificates.served)

    def _accept(self) -> Side:
        return Connection(self._relay, self).client

    def _bind(self) -> socket.socket:
        listen = self.listener.listen
        if listen.path:
            if Path(listen.path).is_socket():
                Path(listen.path).unlink()  # of a process that is gone, or is being replaced
            made = socket.socket(socket.AF_UNIX)
            made.bind(listen.path)
            return made
        family, _, _, _, where = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._relay.shares_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            made.bind(where)
        except OSError:
            made.close()
            raise
        return made
