"""A caller's connection until its TLS handshake is done: it counts as a connection, and has a deadline."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tocsin.relay.side import Side

if TYPE_CHECKING:
    from tocsin.relay.server import Relay


class Handshake(asyncio.Protocol):
    """Takes the TLS handshake of one connection, then leaves the connection to the side that `make_side` gives.

    It ends the connection after `limits.handshake`, and where `limits.connections` leaves no room for it.
    """

    def __init__(self, relay: Relay, make_side: Callable[[], Side], context: ssl.SSLContext) -> None:
        self._relay = relay
        self._make_side = make_side
        self._context = context
        self._early: list[bytes] = []
        self._ended = False
        self._raw: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there; the handshake again calls this where it is done, which changes nothing."""
        if self._raw is not None:
            return
        self._raw = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing alone
        self._raw.pause_reading()  # the handshake reads by itself
        if not self._relay.has_room():
            self._raw.abort()
            return
        self._relay.handshakes.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run(self._raw))

    def data_received(self, data: bytes) -> None:
        """Content that came with the end of the handshake."""
        self._early.append(data)

    def connection_lost(self, error: Exception | None) -> None:
        """The caller has gone."""
        self._ended = True

    def abort(self) -> None:
        """End the connection at once."""
        if self._raw is not None:
            self._raw.abort()

    async def _run(self, raw: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        seconds = self._relay.config.limits.handshake.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                # The loop's own deadline lies behind this one, which tells a timeout from other failures.
                tls = await loop.start_tls(
                    raw, self, self._context, server_side=True, ssl_handshake_timeout=2 * seconds
                )
        except TimeoutError:
            self._relay.limited["handshake"] += 1
            raw.abort()
            return
        except OSError:  # no TLS, a certificate that is not accepted, or a caller that has gone
            raw.abort()
            return
        finally:
            self._relay.handshakes.discard(self)
        if tls is None or self._ended:
            raw.abort()
            return
        side = self._make_side()
        tls.set_protocol(side)
        side.connection_made(tls)
        for data in self._early:
            side.data_received(data)
