"""Where state is kept: in this process, or in Redis, as the configuration says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from tocsin.configuration.model import ModelConfig
from tocsin.configuration.state import TIMEOUT, StateConfig
from tocsin.state.deduplicator import Deduplicator
from tocsin.state.memory import MemorySessions
from tocsin.state.previous import MemoryPrevious, PreviousStore, RedisPrevious
from tocsin.state.redis_claims import RedisClaims
from tocsin.state.redis_connection import OUTCOMES, RedisConnection
from tocsin.state.redis_counts import SharedCounts
from tocsin.state.redis_labels import Learn, RedisLabels
from tocsin.state.redis_sessions import RedisSessions
from tocsin.state.store import SessionStore, Sharing
from tocsin_calibration import Promise

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

EXCHANGE_INTERVAL = 5  # seconds, looks, between two exchanges of counts


class State:
    """What is remembered between calls. Raises ConfigError when Redis is wanted and its client not installed."""

    def __init__(self, config: StateConfig | None = None, round_trip: timedelta | None = None) -> None:
        self._config = config
        timeout = None if config is None else config.timeout
        self.round_trip = round_trip or timeout or TIMEOUT  # what one may take
        self._connection = None if config is None else RedisConnection(config, self.round_trip)
        self._stores: list[RedisSessions] = []
        self._looks: list[Callable[[], None]] = []
        self._last_looks: list[Callable[[], None]] = []  # when this process ends

    def sessions(self, model: str, digest: str, promise: Promise, config: ModelConfig) -> SessionStore:
        """The store of a model's sessions: in Redis where their calls may reach several processes. Sessions that were
        begun by another bundle are not in it.
        """
        assert promise.sessions is not None
        idle, most = config.session_idle.total_seconds(), config.max_sessions
        if not config.sessions_hop or self._config is None or self._connection is None:
            return MemorySessions(promise.sessions, idle, most)
        name = f"{self._config.prefix}:{model}:{digest.removeprefix('sha256:')[:16]}"
        return RedisSessions(self._connection, name, promise.sessions, list(promise.alphas), idle, most)

    def previous(self, model: str, config: ModelConfig) -> PreviousStore:
        """What remembers the last signals of a model's sessions: in Redis where their calls may reach several
        processes.
        """
        idle, most = config.session_idle.total_seconds(), config.max_sessions
        if not config.sessions_hop or self._config is None or self._connection is None:
            return MemoryPrevious(idle, most)
        return RedisPrevious(self._connection, f"{self._config.prefix}:{model}:previous", idle, most)

    def keep(self, stores: Iterable[SessionStore]) -> None:
        """These are in use; the others are forgotten."""
        self._stores = [store for store in stores if isinstance(store, RedisSessions)]
        if self._connection is not None:
            self._connection.looks = [*(store.look for store in self._stores), *self._looks]

    def once(self, repeat: float) -> Deduplicator | None:
        """What keeps replicas from sending one alarm twice within `repeat` seconds; None without Redis."""
        if self._config is None or self._connection is None:
            return None
        return RedisClaims(self._connection, self._config.prefix, repeat)

    def share(self, exchange: Sharing) -> None:
        """Have counts exchanged with other replicas every few seconds, and once more at the end; nothing where there is
        no Redis.
        """
        if self._config is None or self._connection is None:
            return
        shared, looks = SharedCounts(self._connection, self._config.prefix), itertools.count()

        def look() -> None:
            if next(looks) % EXCHANGE_INTERVAL == 0:
                exchange(shared.exchange)

        def last_look() -> None:
            if shared.is_unanswered:  # what is sent again is as it was, without what was counted since
                exchange(shared.exchange, last=True)
            exchange(shared.exchange, last=True)

        self._look_also(look)
        self._last_looks.append(last_look)

    def pass_labels(self, judges: Callable[[], dict[str, Learn]]) -> RedisLabels | None:
        """Have labels that were left for these judges brought to them, and leave others for theirs; None where there is
        no Redis.
        """
        if self._config is None or self._connection is None:
            return None
        labels = RedisLabels(self._connection, self._config.prefix)
        self._look_also(lambda: labels.fetch(judges()))
        return labels

    def _look_also(self, look: Callable[[], None]) -> None:
        assert self._connection is not None
        self._looks.append(look)
        self.keep(self._stores)
        self._connection.start()

    def collect(self) -> Iterable[Metric]:
        """How it goes with Redis; nothing where there is none."""
        if self._connection is None:
            return
        # only where it is scraped: a guard in a program does without
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        up = GaugeMetricFamily("tocsin_state_up", "Whether Redis answered the last time, in time and as it should.")
        up.add_metric([], self._connection.up)
        requests = CounterMetricFamily(
            "tocsin_state_requests", "Round trips to Redis; skipped: while it was away.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            requests.add_metric([outcome], self._connection.counts[outcome])
        waiting = GaugeMetricFamily("tocsin_state_waiting_scores", "Scores that wait for Redis to come back.")
        waiting.add_metric([], sum(store.waiting for store in self._stores))
        lost = CounterMetricFamily("tocsin_state_lost", "Scores and severities that never reached Redis.")
        lost.add_metric([], sum(store.lost for store in self._stores))
        yield from (up, requests, waiting, lost)

    def close(self) -> None:
        """Share what was counted since the last exchange, and ask no more."""
        if self._connection is not None:
            self._connection.close(self._last_looks)
