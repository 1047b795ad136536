"""What a new connection speaks, told by its first bytes: HTTP/2, or HTTP/1.1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from tocsin.http2.frames import PREFACE
from tocsin.relay.context import RelayContext, RelayedConnection


class FirstBytes(RelayedConnection):
    """An asyncio protocol that takes the first bytes, and leaves the connection to who speaks what they say."""

    def __init__(self, context: RelayContext, http2: Callable[[], Any], http1: Callable[[], Any]) -> None:
        self._context = context
        self._http2 = http2
        self._http1 = http1
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.idle_since = context.now()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a socket."""
        self._transport = cast(asyncio.Transport, transport)
        if not self._context.open.admit(self):
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Bytes from the caller."""
        received = self._received + data
        self._received = received
        transport = self._transport
        assert transport is not None
        if transport.is_closing():
            return
        if received[: len(PREFACE)] == PREFACE:
            chosen = self._http2()
        elif PREFACE.startswith(received):
            return
        else:
            chosen = self._http1()
        self._context.connections.discard(self)
        transport.set_protocol(chosen)
        chosen.connection_made(transport)
        chosen.data_received(received)

    def eof_received(self) -> bool:
        """The caller says nothing more."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The caller is gone."""
        self._context.connections.discard(self)

    def pause_writing(self) -> None:
        """Nothing is written here."""

    def resume_writing(self) -> None:
        """Nothing is written here."""

    # -- a connection, as the relay knows it

    @property
    def open_streams(self) -> int:
        return 0

    @property
    def is_greeted(self) -> bool:
        return False

    def written_after_flush(self) -> None:
        pass

    def leads_to(self, port: object) -> bool:
        return False

    def retire(self) -> None:
        pass

    def drain(self) -> None:
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
