"""The relay: its ports, what all connections share, and how it ends in good order."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import Metric

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address
from tocsin.errors import StartError
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.log_throttle import LogThrottle, and_more
from tocsin.memory import MemoryBudget
from tocsin.relay.connection import Connection
from tocsin.relay.descriptors import Descriptors
from tocsin.relay.health import facts, families
from tocsin.relay.listening import Port
from tocsin.relay.method_paths import AllowedMethods, MethodPaths
from tocsin.relay.request_block import RequestFields
from tocsin.relay.retrier import Retrier
from tocsin.relay.stream import Stream

log = logging.getLogger("tocsin")

LOOKS = 1.0  # seconds between looks for idle connections, silent sessions and changed certificates


class Relay:
    """Relays what comes to its ports to the model servers behind them, judged by `guard` on the way.

    `added` is told the seconds that responses waited. `shares_port`: other processes listen on the same ports. Use
    `start`, then `drain` to end; it must run in one event loop, and every connection lives in that loop.
    """

    def __init__(
        self,
        config: Config,
        guard: Guard,
        added: Callable[[float], None] = lambda seconds: None,
        *,
        shares_port: bool = False,
    ) -> None:
        self.guard = guard
        self.added = added
        self.shares_port = shares_port
        self.memory = MemoryBudget(int(config.max_memory))
        self.connections: set[Connection] = set()
        self.handshakes: set[asyncio.Task[None]] = set()
        self.descriptors = Descriptors()
        self.enforces = self.injects_requests = False
        self.follow(config)
        self.after_flush: list[Connection] = []
        self.calls = [0, 0]  # passed unguarded, guarded
        self.not_understood: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self.upstream_failures = 0
        self._throttle = LogThrottle()
        self.goaways = 0
        self.accepted = 0  # verdicts that somebody behind has made
        self.cut_verdicts: Counter[str] = Counter()
        self.retrier: Retrier | None = None
        self.now = time.monotonic
        self._names = itertools.count(1)
        self.ports = [Port(self, listener) for listener in config.every_listener]
        self._looking: asyncio.Task[None] | None = None
        self.batcher: Batcher

    def follow(self, config: Config) -> None:
        """Relay as this says from here on. Connections whose flow control does not fit it are asked to come anew."""
        before = self.enforces, self.injects_requests
        self.config = config
        self.annotates = config.mode != "observe"
        self.enforces = config.mode == "enforce"
        self.injects_requests = any(model.edits for model in self.guard.models.values())
        self.fails_closed = self.enforces and "closed" in {config.fail, *(m.fail for m in config.models.values())}
        self.buffers_headers = self.enforces and any(m.policy.asks_again for m in self.guard.models.values())
        self.max_message = int(config.max_message)
        self.trusts_verdicts = config.accept_verdicts
        self.most_streams, self.longest_headers = config.limits.streams, int(config.limits.headers)
        names = ("content-type", "grpc-encoding", *self.guard.metadata_keys)
        self.request_fields = RequestFields(names, self.longest_headers)
        self.paths = MethodPaths(self.guard.methods)
        self.allowed_methods = AllowedMethods(config.unguarded_allow)
        self.refuses_unguarded = self.enforces and config.unguarded == "refuse"
        if before != (self.enforces, self.injects_requests):
            for connection in list(self.connections):
                connection.retire()

    async def start(self) -> None:
        """Listen. Raises StartError when an address cannot be had or a certificate not be used."""
        self.batcher = Batcher(self.guard, self._flushed)
        self.retrier = Retrier(self)
        started: list[Port] = []
        try:
            for port in self.ports:
                await port.start()
                started.append(port)
        except StartError:
            for started_port in started:
                started_port.close()
            raise
        self.descriptors.measure()
        self._looking = asyncio.get_running_loop().create_task(self._look())

    @property
    def waiting(self) -> int:
        """How many responses wait for the scorer."""
        return 0 if self._looking is None else self.batcher.waiting

    @property
    def address(self) -> Address:
        """Where the first port listens."""
        return self.ports[0].address

    @property
    def addresses(self) -> list[Address]:
        """Where every port listens."""
        return [port.address for port in self.ports]

    def upstream_failed(self, reason: str) -> None:
        """Count a connection to the model server that failed, and tell of the first of its kind within a minute."""
        self.upstream_failures += 1
        if (suppressed := self._throttle.admit(reason)) is not None:
            log.warning("%s%s", reason, and_more(suppressed))

    def name_connection(self) -> str:
        """What tells a connection from all others of this process."""
        return f"connection {next(self._names)}"

    def has_room(self) -> bool:
        """Whether another connection may come, its TLS handshake included; one that may not is counted."""
        in_use = len(self.connections) + len(self.handshakes)
        if in_use >= self.config.limits.connections:
            self.limited["connections"] += 1
            return False
        if in_use >= self.descriptors.most_connections:
            self.limited["descriptors"] += 1
            self.descriptors.run_out()
            return False
        return True

    def admit(self, connection: Connection) -> bool:
        """Take note of a new connection; whether there is room for it."""
        if not self.has_room():
            return False
        self.connections.add(connection)
        return True

    @property
    def unready(self) -> dict[str, int]:
        """Why new calls are not welcome: of each reason, whether it applies."""
        return {
            "upstream": int(not all(port.upstream_is_up for port in self.ports)),
            "descriptors": int(self.descriptors.scarce),
        }

    def limit(self, stream: Stream, call: Call) -> asyncio.TimerHandle | None:
        """The scoring budget of a stream whose response waits; none where the verdict comes at once."""
        if self.batcher.inline:
            return None
        return asyncio.get_running_loop().call_later(self.guard.budget(call), stream.late)

    async def renew_certificates(self, *, look: bool = False) -> bool:
        """Use certificates that have changed; whether there were any. Raises StartError; then the old ones stay."""
        return any([await port.renew(look=look) for port in self.ports])

    async def drain(self) -> None:
        """Stop listening, let calls in flight finish for `config.drain`, and close everything."""
        if self._looking is not None:
            self._looking.cancel()
        for port in self.ports:
            port.close()
        for handshake in list(self.handshakes):
            handshake.cancel()
        for connection in list(self.connections):
            connection.drain()
        deadline = asyncio.get_running_loop().time() + self.config.drain.total_seconds()
        while self.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.close()
        if self.retrier is not None:
            await self.retrier.close()
        self.batcher.close()

    async def _look(self) -> None:
        """Use certificates that have changed, count sessions that have fallen silent, close connections that say
        nothing, and send idle ones away where that is configured.
        """
        looked = self.now()
        while True:
            await asyncio.sleep(LOOKS)
            self.guard.end_silent_sessions()
            if self.now() - looked >= self.config.reload_certificates.total_seconds():
                looked = self.now()
                try:
                    if await self.renew_certificates(look=True):
                        log.info("certificates have changed and are used from here on")
                except StartError as error:
                    log.error("certificates have changed and cannot be used, the old ones stay: %s", error)
            self._end_silent()
            idle = self.config.limits.idle
            if idle is None:
                continue
            before = self.now() - idle.total_seconds()
            for connection in list(self.connections):
                if not connection.streams and connection.idle_since < before:
                    self.limited["idle"] += 1
                    connection.drain()

    def _end_silent(self) -> None:
        """Close connections whose callers have not said within `limits.handshake` what they speak."""
        before = self.now() - self.config.limits.handshake.total_seconds()
        for connection in list(self.connections):
            if not connection.downstream.greeted and connection.idle_since < before:
                self.limited["handshake"] += 1
                connection.close()

    def collect(self) -> Iterable[Metric]:
        """The relay's own health, as Prometheus families."""
        return families(facts(self))

    def _flushed(self) -> None:
        waiting, self.after_flush = self.after_flush, []
        for connection in waiting:
            connection.written_after_flush()
