"""The external processor's port: what all connections share, and how it drains."""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Final, cast

from prometheus_client.metrics_core import Metric

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import StartError
from tocsin.ext_proc.connection import ExtProcConnection
from tocsin.ext_proc.context import ProcessorContext, WaitingResponse
from tocsin.ext_proc.health import facts, families
from tocsin.ext_proc.hosts import ConnectionHost, ProcessorHost
from tocsin.judgement.batching import Batcher
from tocsin.judgement.guard import Guard
from tocsin.memory import MemoryBudget
from tocsin.relay.descriptors import Descriptors
from tocsin.relay.fair_share import FairShare
from tocsin.relay.handshake import TlsServer
from tocsin.relay.open_connections import OpenConnections
from tocsin.relay.retrier import Retrier
from tocsin.relay.tls import Certificates
from tocsin.sockets import bind

log = logging.getLogger("tocsin")

BACKLOG: Final = 1024
TURN: Final = 0.0004  # seconds of each turn of the loop that go to what Envoy has sent
MAINTENANCE_INTERVAL: Final = 1.0  # seconds between looks for changed certificates and connections that say nothing


class ExtProcServer(ProcessorHost):
    """Serves Envoy's external processing on `config.ext_proc`, judged by `guard`.

    `memory` is the budget that it shares with the relay. `is_ready` says whether new calls are accepted. Call `start`,
    and `drain` to end; both must run in one event loop.
    """

    def __init__(
        self,
        config: Config,
        guard: Guard,
        memory: MemoryBudget,
        descriptors: Descriptors,
        added: Callable[[float], None] = lambda seconds: None,
        is_ready: Callable[[], bool] = lambda: True,
        *,
        shares_port: bool = False,
    ) -> None:
        assert config.ext_proc is not None
        self.context = ProcessorContext(config, guard, added)
        self.memory = memory
        self.share = FairShare(turn=TURN)
        self.is_awaited = False
        self._is_ready = is_ready
        self.open: OpenConnections[ConnectionHost] = OpenConnections(descriptors, self.context.limited)
        self.open.most = config.limits.connections
        self.connections = self.open.connections
        self.longest_headers = int(config.limits.headers)
        self._shares_port = shares_port
        self._listen = self._address = config.ext_proc
        self._certificates = Certificates(config.ext_proc_tls, None, ("ext_proc_tls", ""))
        self._server: asyncio.AbstractServer | TlsServer | None = None
        self.asking: set[asyncio.Task[None]] = set()
        self._names = itertools.count(1)
        self._written_later: dict[ConnectionHost, None] = {}
        self._to_go_on: dict[WaitingResponse, None] = {}
        self._looking: asyncio.Task[None] | None = None

    @property
    def address(self) -> Address:
        """The address that it listens on, with the port that the system chose for port 0."""
        return self._address

    def follow(self, config: Config) -> None:
        """Serve by this configuration from here on; exchanges under way keep the old one."""
        self.longest_headers = int(config.limits.headers)
        self.open.most = config.limits.connections
        self.context.follow(config)

    async def start(self) -> None:
        """Listen. Raises StartError when the address is not available or a certificate cannot be used."""
        self.loop = asyncio.get_running_loop()
        self.batcher = Batcher(self.context.guard, self.flushed, is_filling=self.is_filling)
        self.retrier = Retrier(self.memory)
        self._certificates.read()
        try:
            bound = bind(self._listen, shares_port=self._shares_port)
        except OSError as error:
            raise StartError(f"ext_proc: cannot listen on {self._listen}: {error.strerror or error}") from error
        if not self._listen.path:
            self._address = Address(self._listen.host, bound.getsockname()[1])
        if self._certificates.served is not None:
            self._server = TlsServer(self, bound, self._tls_context, self._make_connection, backlog=BACKLOG)
        else:
            make = self.loop.create_unix_server if self._listen.path else self.loop.create_server
            self._server = await make(self._make_connection, sock=bound, backlog=BACKLOG)
        self._looking = self.loop.create_task(self._look())

    async def renew_certificates(self, *, look: bool = False) -> bool:
        """Use changed certificates for new connections; whether any had changed. Raises StartError; then the old ones
        stay.
        """
        if look and not self._certificates.changed():
            return False
        self._certificates.read()
        return True

    def is_ready(self) -> bool:
        return self._is_ready()

    def name_connection(self) -> str:
        return f"ext_proc {next(self._names)}"

    @property
    def config(self) -> Config:
        """The current configuration."""
        return self.context.config

    def admit(self, connection: ConnectionHost) -> bool:
        return self.open.admit(connection)

    def on_connection_closed(self, connection: ConnectionHost) -> None:
        self.connections.discard(connection)
        self._written_later.pop(connection, None)

    def go_on_later(self, waiting: WaitingResponse) -> None:
        self._to_go_on[waiting] = None

    def write_later(self, connection: ConnectionHost) -> None:
        if not connection.is_reading:
            self._written_later[connection] = None

    @property
    def waiting(self) -> int:
        """How many responses wait for the scorer."""
        return 0 if self._looking is None else self.batcher.waiting

    async def drain(self) -> None:
        """Stop listening, let exchanges under way finish within `config.drain`, and close everything."""
        if self._looking is not None:
            self._looking.cancel()
        if self._server is not None:
            self._server.close()
        for handshake in list(self.open.handshakes):
            handshake.cancel()
        for connection in list(self.connections):
            connection.drain()
        deadline = self.loop.time() + self.context.config.drain.total_seconds()
        while self.connections and self.loop.time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.close()
        await self.retrier.close()
        self.batcher.close()

    def collect(self) -> Iterable[Metric]:
        """The processor's own health, as Prometheus families."""
        return families(self.facts())

    def facts(self) -> dict[str, dict[str, int]]:
        """The same as plain data."""
        return facts(self.context, list(self.connections))

    def is_filling(self) -> bool:
        """Whether more is to come of all that waits to be judged: each batch costs as much as half a dozen responses.
        What one read brought is read in many turns; whoever has no more to read waits for none of them.
        """
        return not self.is_awaited

    def flushed(self) -> None:
        """A batch is judged."""
        self.is_awaited = False
        going_on, self._to_go_on = self._to_go_on, {}
        for response in going_on:
            response.go_on()
        waiting, self._written_later = self._written_later, {}
        for connection in waiting:
            connection.flush()

    def _make_connection(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, ExtProcConnection(self))

    def _tls_context(self) -> ssl.SSLContext:
        assert self._certificates.served is not None
        return self._certificates.served

    async def _look(self) -> None:
        """Once a second: use changed certificates, close connections that never sent a preface, and end idle ones where
        that is configured.
        """
        looked = time.monotonic()
        while True:
            await asyncio.sleep(MAINTENANCE_INTERVAL)
            now, limits = time.monotonic(), self.config.limits
            if now - looked >= self.config.reload_certificates.total_seconds():
                looked = now
                await self._look_at_certificates()
            for connection in list(self.connections):
                if not connection.is_greeted and now - connection.idle_since > limits.handshake.total_seconds():
                    connection.cut_off("handshake")
                elif limits.idle is not None and not connection.open_streams:
                    self._end_idle(connection, now - limits.idle.total_seconds())

    def _end_idle(self, connection: ConnectionHost, before: float) -> None:
        if connection.idle_since < before:
            self.context.limited["idle"] += 1
            connection.drain()

    async def _look_at_certificates(self) -> None:
        try:
            if await self.renew_certificates(look=True):
                log.info("certificates of ext_proc have changed and are used from here on")
        except StartError as error:
            log.error("certificates of ext_proc have changed and cannot be used, the old ones stay: %s", error)
