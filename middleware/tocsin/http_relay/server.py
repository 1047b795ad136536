"""HTTP/1.1 beside HTTP/2 on the relay's ports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tocsin.http_relay.connection import HttpConnection
from tocsin.http_relay.context import HttpContext
from tocsin.http_relay.first_bytes import FirstBytes
from tocsin.relay.context import RelayContext
from tocsin.relay.listening import Port


class HttpRelay:
    """Takes over the connections of a relay that speak HTTP/1.1, where a model is served by a protocol of HTTP."""

    def __init__(self, relay: RelayContext) -> None:
        self._relay = relay
        self._context = HttpContext(relay)

    @property
    def has_routes(self) -> bool:
        """Whether a model is served by a protocol of HTTP: else connections are those of the relay alone."""
        return self._context.has_routes

    def open(self, port: Port, http2: Callable[[], Any]) -> Any:
        """An asyncio protocol for a new connection; `http2` makes one for those that turn out to speak HTTP/2."""

        def http1() -> Any:
            return HttpConnection(self._context, port).downstream

        return FirstBytes(self._relay, http2, http1)
