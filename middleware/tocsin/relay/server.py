"""The relay: its ports, and how it begins and ends in good order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from prometheus_client.metrics_core import Metric

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import StartError
from tocsin.judgement.guard import Guard
from tocsin.relay.connection import Connection
from tocsin.relay.context import RelayContext
from tocsin.relay.health import Facts, facts, families
from tocsin.relay.listening import Port
from tocsin.relay.managed import ManagedConnection
from tocsin.relay.transparent import TransparentConnection

log = logging.getLogger("tocsin")

MAINTENANCE_INTERVAL = 1.0  # seconds between looks for idle connections, silent sessions and changed certificates


class OpensHttp(Protocol):
    """Takes over connections that speak HTTP/1.1."""

    @property
    def has_routes(self) -> bool:
        """Whether a model is served by HTTP: else such connections pass unread."""
        ...

    def open(self, port: Port, http2: Callable[[], Any]) -> Any:
        """An asyncio protocol for a new connection; `http2` makes one for those that turn out to speak HTTP/2."""
        ...


class Relay:
    """Relays what comes to its ports to the model servers behind them, judged by `guard` on the way.

    `added` is told the seconds that responses waited. `shares_port`: other processes listen on the same ports. `http`
    makes what takes over connections of HTTP/1.1. Use `start`, then `drain` to end; it must run in one event loop, and
    every connection lives in that loop.
    """

    def __init__(
        self,
        config: Config,
        guard: Guard,
        added: Callable[[float], None] = lambda seconds: None,
        *,
        shares_port: bool = False,
        http: Callable[[RelayContext], OpensHttp] | None = None,
    ) -> None:
        self.context = RelayContext(config, guard, added)
        self._http = http(self.context) if http is not None else None
        self.ports = [
            Port(self.context, listener, self._open, shares_port=shares_port, serves_http1=self._serves_http1)
            for listener in config.every_listener
        ]
        self._looking: asyncio.Task[None] | None = None

    def _serves_http1(self) -> bool:
        return self._http is not None and self._http.has_routes

    def _open(self, port: Port) -> Any:
        """The asyncio protocol of a new connection to this port: one that finds out whether it speaks HTTP/1.1, where
        that is served.
        """
        if self._http is not None and self._http.has_routes:
            return self._http.open(port, lambda: self.connection(port).downstream)
        return self.connection(port).downstream

    def connection(self, port: Port) -> Connection:
        """A connection of a client that comes to this port."""
        if self.context.manages_windows:
            return ManagedConnection(self.context, port)
        return TransparentConnection(self.context, port)

    async def start(self) -> None:
        """Listen. Raises StartError when an address cannot be had or a certificate not be used."""
        self.context.start()
        started: list[Port] = []
        try:
            for port in self.ports:
                await port.start()
                started.append(port)
        except StartError:
            for started_port in started:
                started_port.close()
            raise
        self.context.descriptors.measure()
        self._looking = asyncio.get_running_loop().create_task(self._look())

    @property
    def waiting(self) -> int:
        """How many responses wait for the scorer."""
        return 0 if self._looking is None else self.context.batcher.waiting

    @property
    def address(self) -> Address:
        """Where the first port listens."""
        return self.ports[0].address

    @property
    def addresses(self) -> list[Address]:
        """Where every port listens."""
        return [port.address for port in self.ports]

    @property
    def unready(self) -> dict[str, int]:
        """Why new calls are not welcome: of each reason, whether it applies."""
        return {
            "upstream": int(not all(port.upstream_is_up for port in self.ports)),
            "descriptors": int(self.context.descriptors.scarce),
        }

    async def renew_certificates(self, *, look: bool = False) -> bool:
        """Use certificates that have changed; whether there were any. Raises StartError; then the old ones stay."""
        return any([await port.renew(look=look) for port in self.ports])

    async def drain(self) -> None:
        """Stop listening, let calls in flight finish for `config.drain`, and close everything."""
        if self._looking is not None:
            self._looking.cancel()
        for port in self.ports:
            port.close()
        for handshake in list(self.context.open.handshakes):
            handshake.cancel()
        for connection in list(self.context.connections):
            connection.drain()
        deadline = asyncio.get_running_loop().time() + self.context.config.drain.total_seconds()
        while self.context.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self.context.connections):
            connection.close()
        if self._looking is not None:
            await self.context.retrier.close()
            self.context.batcher.close()

    async def _look(self) -> None:
        """Use certificates that have changed, count sessions that have fallen silent, close connections that say
        nothing, and send idle ones away where that is configured.
        """
        looked = self.context.now()
        while True:
            await asyncio.sleep(MAINTENANCE_INTERVAL)
            self.context.guard.end_silent_sessions()
            if self.context.now() - looked >= self.context.config.reload_certificates.total_seconds():
                looked = self.context.now()
                try:
                    if await self.renew_certificates(look=True):
                        log.info("certificates have changed and are used from here on")
                except StartError as error:
                    log.error("certificates have changed and cannot be used, the old ones stay: %s", error)
            self._end_silent()
            idle = self.context.config.limits.idle
            if idle is None:
                continue
            before = self.context.now() - idle.total_seconds()
            for connection in list(self.context.connections):
                if not connection.open_streams and connection.idle_since < before:
                    self.context.limited["idle"] += 1
                    connection.drain()

    def _end_silent(self) -> None:
        """Close connections whose callers have not said within `limits.handshake` what they speak."""
        before = self.context.now() - self.context.config.limits.handshake.total_seconds()
        for connection in list(self.context.connections):
            if not connection.is_greeted and connection.idle_since < before:
                self.context.limited["handshake"] += 1
                connection.close()

    def collect(self) -> Iterable[Metric]:
        """The relay's own health, as Prometheus families."""
        return families(self.facts())

    def facts(self) -> Facts:
        """The same as plain data."""
        return facts(self.context, self.waiting, self.unready)
