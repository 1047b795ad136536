"""The relay: listens, relays each connection, and ends in good order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tocsin.config import Config
from tocsin.config_fields import Address
from tocsin.errors import StartError
from tocsin.judgement.batching import Batcher
from tocsin.judgement.guard import Guard
from tocsin.relay.connection import Connection
from tocsin.relay.messages import Memory
from tocsin.relay.side import Side
from tocsin.relay.stream import Stream


class Relay:
    """Relays what comes to `config.listen` to `config.upstream`, judged by `guard` on the way.

    `added` is told the seconds that trailers waited. Use `start`, then `drain` to end; it must run in one event
    loop, and every connection lives in that loop.
    """

    def __init__(self, config: Config, guard: Guard, added: Callable[[float], None] = lambda seconds: None) -> None:
        self.config = config
        self.guard = guard
        self.added = added
        self.annotates = config.mode == "annotate"
        self.max_message = int(config.max_message)
        self.memory = Memory(int(config.max_memory))
        self.request_fields = (":path", "grpc-encoding", *guard.metadata_keys)
        self.connections: set[Connection] = set()
        self.after_flush: list[Connection] = []
        self.calls = [0, 0]  # passed unguarded, guarded
        self.not_understood: Counter[str] = Counter()
        self.upstream_failures = 0
        self.goaways = 0
        self._budget = config.scoring_budget.total_seconds()
        self._server: asyncio.AbstractServer | None = None
        self.batcher: Batcher

    async def start(self) -> None:
        """Listen. Raises StartError when the address cannot be had."""
        self.batcher = Batcher(self.guard, self._flushed)
        loop = asyncio.get_running_loop()
        listen = self.config.listen
        try:
            if listen.path:
                if Path(listen.path).is_socket():
                    Path(listen.path).unlink()  # of a process that is gone, or is being replaced
                self._server = await loop.create_unix_server(self._accept, listen.path, backlog=1024)
            else:
                self._server = await loop.create_server(self._accept, listen.host, listen.port, backlog=1024)
        except OSError as error:
            raise StartError(f"cannot listen on {listen}: {error.strerror or error}") from error

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose for port 0."""
        if self.config.listen.path or self._server is None:
            return self.config.listen
        return Address(self.config.listen.host, self._server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]

    async def connect_upstream(self, protocol: Callable[[], Side]) -> None:
        """One connection to the model server. Raises OSError."""
        loop = asyncio.get_running_loop()
        upstream = self.config.upstream
        if upstream.path:
            await loop.create_unix_connection(protocol, upstream.path)
        else:
            await loop.create_connection(protocol, upstream.host, upstream.port)

    def limit(self, stream: Stream) -> asyncio.TimerHandle | None:
        """The scoring budget of a stream whose trailers wait; none where the verdict comes in this turn."""
        if self.batcher.inline:
            return None
        return asyncio.get_running_loop().call_later(self._budget, stream.late)

    async def drain(self) -> None:
        """Stop listening, let calls in flight finish for `config.drain`, and close everything."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.drain()
        deadline = asyncio.get_running_loop().time() + self.config.drain.total_seconds()
        while self.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.close()
        self.batcher.close()

    def collect(self) -> Iterable[Metric]:
        """The relay's own health, as Prometheus families."""
        connections = GaugeMetricFamily("tocsin_relay_connections", "Client connections that are open.")
        connections.add_metric([], len(self.connections))
        streams = GaugeMetricFamily("tocsin_relay_streams", "Calls that are under way.")
        streams.add_metric([], sum(len(connection.streams) for connection in list(self.connections)))
        calls = CounterMetricFamily(
            "tocsin_relay_calls", "Calls begun, by whether their method is guarded.", labels=["guarded"]
        )
        for guarded, count in enumerate(self.calls):
            calls.add_metric(["true" if guarded else "false"], count)
        strange = CounterMetricFamily(
            "tocsin_relay_not_understood", "What was forwarded or refused unread.", labels=["what"]
        )
        for what in ("frame", "headers", "malformed", "not_http2"):
            strange.add_metric([what], self.not_understood[what])
        failures = CounterMetricFamily("tocsin_relay_upstream_failures", "Upstream connections that failed.")
        failures.add_metric([], self.upstream_failures)
        goaways = CounterMetricFamily("tocsin_relay_upstream_goaways", "GOAWAY frames from the upstream.")
        goaways.add_metric([], self.goaways)
        yield from (connections, streams, calls, strange, failures, goaways)

    def _accept(self) -> Side:
        return Connection(self).client

    def _flushed(self) -> None:
        waiting, self.after_flush = self.after_flush, []
        for connection in waiting:
            connection.written_after_flush()
