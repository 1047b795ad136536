"""One port of the relay: its socket, the certificates of both sides, and the way to the model server behind it."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import Listener
from tocsin.errors import StartError
from tocsin.relay.context import RelayContext
from tocsin.relay.handshake import TlsServer
from tocsin.relay.tls import Certificates
from tocsin.relay.upstream_watch import UpstreamWatch
from tocsin.sockets import bind

log = logging.getLogger("tocsin")

BACKLOG = 1024


class Port:
    """Listens, and opens a connection for each client: `open_connection` gives its side towards that, an asyncio
    protocol. `shares_port`: other processes listen there as well; `serves_http1`: callers may speak HTTP/1.1. Raises
    StartError from `start`.
    """

    def __init__(
        self,
        context: RelayContext,
        listener: Listener,
        open_connection: Callable[[Port], Any],
        *,
        shares_port: bool = False,
        serves_http1: Callable[[], bool] = lambda: False,
    ) -> None:
        self.listener = listener
        self._context = context
        self._open_connection = open_connection
        self._shares_port = shares_port
        self._address: Address | None = None
        self._server: asyncio.AbstractServer | TlsServer | None = None
        self._certificates = Certificates(listener.tls, listener.upstream_tls, serves_http1=serves_http1)
        self._follows = context.config.upstream_health
        self._watch: UpstreamWatch | None = None
        if self._follows != "ignore":
            self._watch = UpstreamWatch(f"{listener.upstream}", self._probe, self._in_use, self._follow)

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose for port 0."""
        return self._address or self.listener.listen

    @property
    def upstream_is_up(self) -> bool:
        """Whether the model server takes connections; taken for granted where `upstream_health` is `ignore`."""
        return self._watch is None or self._watch.up

    async def start(self) -> None:
        """Listen, or wait for the upstream with that where it is configured so."""
        self._certificates.read()
        try:
            bound = bind(self.address, shares_port=self._shares_port)
        except OSError as error:
            raise StartError(f"cannot listen on {self.listener.listen}: {error.strerror or error}") from error
        if self.listener.listen.path:
            self._address = self.listener.listen
        else:
            self._address = Address(self.listener.listen.host, bound.getsockname()[1])
        if self._follows == "listen":
            bound.close()  # it was only tried
        else:
            await self._serve(bound)
        if self._watch is not None:
            await self._watch.start()

    async def renew(self, *, look: bool = True) -> bool:
        """Use certificates that have changed for new connections; whether there were any. `look`: only if their files
        are newer. Raises StartError when they cannot be used; then the old ones stay.
        """
        if look and not self._certificates.changed():
            return False
        self._certificates.read()
        return True

    def close(self) -> None:
        """Take no new connections."""
        if self._watch is not None:
            self._watch.close()
        self._stop_listening()

    def doubt_upstream(self) -> None:
        """A connection to the model server has failed or ended."""
        if self._watch is not None:
            self._watch.doubt()

    async def connect_upstream(self, make_side: Callable[[], Any], *, is_http1: bool = False) -> None:
        """One connection to the model server. Raises OSError."""
        loop = asyncio.get_running_loop()
        protocol = cast(Callable[[], asyncio.Protocol], make_side)
        upstream = self.listener.upstream
        context, name = self._certificates.upstream_http1 if is_http1 else self._certificates.upstream, None
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
        seconds = max(1, int(self._context.config.limits.keepalive.total_seconds()))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", max(1, seconds // 3)), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    async def _serve(self, bound: socket.socket) -> None:
        if self._certificates.served is not None:
            self._server = TlsServer(self._context, bound, self._served, self._make_side, backlog=BACKLOG)
            return
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if self.listener.listen.path else loop.create_server
        self._server = await make(self._make_side, sock=bound, backlog=BACKLOG)

    def _served(self) -> ssl.SSLContext:
        assert self._certificates.served is not None
        return self._certificates.served

    def _make_side(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, self._open_connection(self))

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _probe(self) -> None:
        """Open a connection to the model server and close it. Raises OSError."""
        upstream = self.listener.upstream
        if upstream.path:
            _, writer = await asyncio.open_unix_connection(upstream.path)
        else:
            _, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.close()

    def _in_use(self) -> bool:
        return any(connection.leads_to(self) for connection in self._context.connections)

    async def _follow(self, up: bool) -> None:
        """The model server has come or gone: so does the port, where that is configured."""
        if self._follows != "listen":
            return
        if not up:
            self._stop_listening()
        elif self._server is None:
            try:
                await self._serve(bind(self.address, shares_port=self._shares_port))
            except OSError as error:
                log.error("cannot listen on %s again: %s", self.address, error.strerror or error)
                if self._watch is not None:
                    self._watch.up = False  # and tries again
