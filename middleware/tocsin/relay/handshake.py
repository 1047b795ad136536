"""Accepts callers that come with TLS. A connection counts from the beginning, and its handshake has a deadline."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol

from tocsin.configuration.config import Config
from tocsin.relay.open_connections import OpenConnections

MAX_ACCEPTS = 64  # connections that are accepted in one turn of the loop
ACCEPT_PAUSE = 0.5  # seconds without accepting, once there are no file descriptors


class Accepts(Protocol):
    """Whoever serves a port: the relay, or the external processor."""

    @property
    def config(self) -> Config:
        """What says how long a handshake may take."""
        ...

    @property
    def open(self) -> OpenConnections[Any]:
        """Its connections, and the handshakes under way."""
        ...


class TlsServer:
    """Accepts from a bound socket. `certificates` gives those for the next connection, `make_side` who takes it
    over once its handshake is done.
    """

    def __init__(
        self,
        context: Accepts,
        bound: socket.socket,
        certificates: Callable[[], ssl.SSLContext],
        make_side: Callable[[], asyncio.Protocol],
        *,
        backlog: int,
    ) -> None:
        self._context = context
        self._socket = bound
        self._certificates = certificates
        self._make_side = make_side
        self._loop = asyncio.get_running_loop()
        bound.setblocking(False)
        bound.listen(backlog)
        self._resume()

    def close(self) -> None:
        """Accept no more. Handshakes under way go on."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                peer, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.ECONNABORTED, errno.EINTR):  # it has gone already
                    continue
                self._context.open.descriptors.explain(error)
                self._loop.remove_reader(self._socket)  # which would report the same at once
                self._loop.call_later(ACCEPT_PAUSE, self._resume)
                return
            if not self._context.open.has_room():
                peer.close()
                continue
            peer.setblocking(False)
            task = self._loop.create_task(self._shake_hands(peer))
            self._context.open.handshakes.add(task)
            task.add_done_callback(self._context.open.handshakes.discard)

    async def _shake_hands(self, peer: socket.socket) -> None:
        seconds = self._context.config.limits.handshake.total_seconds()
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(seconds):
                # The loop's own deadline lies behind this one, which tells a timeout from other failures.
                await self._loop.connect_accepted_socket(
                    lambda: _HandsOver(task, self._context, self._make_side),
                    peer,
                    ssl=self._certificates(),
                    ssl_handshake_timeout=2 * seconds,
                )
        except TimeoutError:
            self._context.open.limited["handshake"] += 1
        except OSError:  # no TLS, a certificate that is not accepted, or a caller that has gone
            return


class _HandsOver(asyncio.Protocol):
    """Leaves a connection to its side as soon as its handshake, the `task`, is done."""

    def __init__(self, task: asyncio.Task[None], context: Accepts, make_side: Callable[[], asyncio.Protocol]) -> None:
        self._task = task
        self._context = context
        self._make_side = make_side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From here on it counts among the connections."""
        self._context.open.handshakes.discard(self._task)
        side = self._make_side()
        transport.set_protocol(side)
        side.connection_made(transport)
