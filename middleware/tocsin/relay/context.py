"""What all connections of a relay share: the settings they need, the memory budget, the batcher and the counters."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from tocsin.configuration.config import Config
from tocsin.http2.headers import HeaderFilter
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.log_throttle import LogThrottle, and_more
from tocsin.memory import MemoryBudget
from tocsin.relay.descriptors import Descriptors
from tocsin.relay.frame_rate import FrameLimits
from tocsin.relay.method_paths import AllowedMethods, MethodPaths
from tocsin.relay.open_connections import OpenConnections
from tocsin.relay.request_block import RequestFields
from tocsin.relay.retrier import Retrier

log = logging.getLogger("tocsin")

FEW: Final = 8  # connections that are looked through for each response that is alone so far


class RelayedConnection:
    """A connection as the relay sees it."""

    __slots__ = ()

    idle_since: float  # when it last had a call, by the context's `now`

    @property
    def open_streams(self) -> int:
        """How many calls are under way."""
        raise NotImplementedError

    @property
    def is_greeted(self) -> bool:
        """Whether the client has sent its preface."""
        raise NotImplementedError

    def written_after_flush(self) -> None:
        """The batch is judged: write what waited for it."""
        raise NotImplementedError

    def leads_to(self, port: object) -> bool:
        """Whether the connection to the model server goes through this port and is open."""
        raise NotImplementedError

    def retire(self) -> None:
        """The configuration needs another kind of connection: accept no new calls here, and close after those under
        way.
        """
        raise NotImplementedError

    def drain(self) -> None:
        """Take no new calls, let those in flight finish, then close."""
        raise NotImplementedError

    def close(self) -> None:
        """Close both sides, after writing what waits."""
        raise NotImplementedError


class RelayContext:
    """Shared by the connections of a relay. After `start`, all of it lives in one event loop.

    `added` is called with the seconds that a response waited.
    """

    batcher: Batcher
    retrier: Retrier

    def __init__(self, config: Config, guard: Guard, added: Callable[[float], None] = lambda seconds: None) -> None:
        self.guard = guard
        self.added = added
        self.memory = MemoryBudget(int(config.max_memory))
        self.descriptors = Descriptors()
        self.now = time.monotonic
        self.after_flush: list[RelayedConnection] = []
        self.calls = [0, 0]  # passed unguarded, guarded
        self.not_understood: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self.open: OpenConnections[RelayedConnection] = OpenConnections(self.descriptors, self.limited)
        self.connections = self.open.connections
        self.frame_limits = FrameLimits(self.limited)
        self.cut_verdicts: Counter[str] = Counter()
        self.upstream_failures = self.goaways = 0
        self.accepted = 0  # verdicts that somebody behind has made
        self.enforces = self.injects_requests = False
        self._throttle = LogThrottle()
        self._names = itertools.count(1)
        self.follow(config)

    def start(self) -> None:
        """Start judging in the running event loop."""
        self.batcher = Batcher(self.guard, self.flushed, self._has_one_call)
        self.retrier = Retrier(self.memory)

    @property
    def manages_windows(self) -> bool:
        """Whether the relay keeps flow-control windows itself, because responses are held or changed."""
        return self.enforces or self.injects_requests

    def follow(self, config: Config) -> None:
        """Use this configuration from here on. Connections whose kind does not fit it are retired."""
        before = self.enforces, self.injects_requests
        self.config = config
        self.annotates = config.mode != "observe"
        self.enforces = config.mode == "enforce"
        self.injects_requests = any(model.edits for model in self.guard.models.values())
        self.fails_closed = self.enforces and "closed" in {config.fail, *(m.fail for m in config.models.values())}
        self.buffers_headers = self.enforces and any(m.policy.asks_again for m in self.guard.models.values())
        self.max_message = int(config.max_message)
        self.trusts_verdicts = config.accept_verdicts
        self.open.most = config.limits.connections
        self.frame_limits.follow(config.limits)
        self.most_streams, self.longest_headers = config.limits.streams, int(config.limits.headers)
        names = ("content-type", "grpc-encoding", *self.guard.metadata_keys)
        self.request_fields = RequestFields(names, self.longest_headers, self.guard.score_keys)
        self.response_scores = HeaderFilter(*[self.guard.response_metadata_keys] * 2)
        self.paths = MethodPaths(self.guard.methods)
        self.allowed_methods = AllowedMethods(config.unguarded_allow)
        self.refuses_unguarded = self.enforces and config.unguarded == "refuse"
        if before != (self.enforces, self.injects_requests):
            for connection in list(self.connections):
                connection.retire()

    def _has_one_call(self) -> bool:
        """Whether at most one call is under way, as far as that is told quickly."""
        if len(self.connections) > FEW:
            return False
        calls = 0
        for connection in self.connections:
            calls += connection.open_streams
            if calls > 1:
                return False
        return True

    def upstream_failed(self, reason: str) -> None:
        """Count a failed connection to the model server, and log the first of a kind within a minute."""
        self.upstream_failures += 1
        if (suppressed := self._throttle.admit(reason)) is not None:
            log.warning("%s%s", reason, and_more(suppressed))

    def name_connection(self) -> str:
        """A name for a new connection, unique in this process."""
        return f"connection {next(self._names)}"

    def limit(self, call: Call, on_deadline: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `on_deadline` when the scoring budget of a waiting response is spent."""
        return asyncio.get_running_loop().call_later(self.guard.budget(call), on_deadline)

    def flushed(self) -> None:
        """A batch is judged."""
        if self.after_flush:
            waiting, self.after_flush = self.after_flush, []
            for connection in waiting:
                connection.written_after_flush()
