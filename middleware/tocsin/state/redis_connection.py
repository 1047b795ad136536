"""The connection to Redis: scripts in pipelines, one round trip each; and what happens while Redis is unavailable."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tocsin.addresses import redacted_url
from tocsin.configuration.state import TIMEOUT, StateConfig
from tocsin.errors import ConfigError
from tocsin.log_throttle import LogThrottle, and_more

log = logging.getLogger("tocsin")

WATCH_INTERVAL = 1.0  # seconds between two looks at what has ended
MIN_BACKOFF, MAX_BACKOFF = 0.1, 5.0  # seconds before trying again

OUTCOMES = ("done", "failed", "skipped")
PROBE = "return 1"  # asked as serving asks: who answers PING and runs no scripts is away

Read = TypeVar("Read")


class RedisUnavailable(Exception):
    """Redis is slow, does not answer, or answers something invalid."""


class ScriptCall(NamedTuple):
    """A script, its one key, and its arguments."""

    script: str
    key: str
    arguments: Sequence[str | int]


class RedisConnection:
    """Runs scripts. Once a round trip fails, no request is sent until a thread of the connection has reached Redis
    again, so that no call waits for it twice. `looks` are called every second while Redis answers, and when it has come
    back. A round trip may take `round_trip`, or what `config` says.

    Raises ConfigError when the client is not installed, a file cannot be read, or no cluster is found. A single Redis
    that does not answer is no error.
    """

    def __init__(self, config: StateConfig, round_trip: timedelta | None = None) -> None:
        seconds = (round_trip or config.timeout or TIMEOUT).total_seconds()
        self._client, self._missing = _client(config, seconds)
        self._probed = f"{config.prefix}:probe"  # no key that is ever there
        self._shas: dict[str, str] = {}
        self._by_text = config.cluster  # the client's pipelines for clusters know no scripts by name
        self._up = True
        self._ending, self._lost = threading.Event(), threading.Event()
        self.counts: Counter[str] = Counter()
        self.looks: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._watch, name="tocsin-state", daemon=True)
        self._starting = threading.Lock()
        self._throttle = LogThrottle()

    @property
    def up(self) -> bool:
        """Whether Redis answered the last time."""
        return self._up

    def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """The answers of scripts, in one round trip. The first call starts the thread that watches Redis.

        Raises RedisUnavailable.
        """
        return self.run_and_read(calls, list)

    def run_and_read(self, calls: Sequence[ScriptCall], read: Callable[[list[Any]], Read]) -> Read:
        """The result of `read` on the scripts' answers. Raises RedisUnavailable, also where `read` raises, because
        Redis may hold what others have written.
        """
        self.start()
        if not self._up:
            self.counts["skipped"] += 1
            raise RedisUnavailable
        try:
            result = read(self._run(calls))
        except Exception as error:  # the client's own, and all that a wrong answer brings about
            self.counts["failed"] += 1
            self._up = False
            if (suppressed := self._throttle.admit("away")) is not None:
                problem = f"{type(error).__name__}: {error}{and_more(suppressed)}"
                log.warning("state: Redis is away, and this process goes on by itself: %s", problem)
            self._lost.set()
            raise RedisUnavailable from None
        self.counts["done"] += 1
        return result

    def start(self) -> None:
        """Start the thread that watches Redis, if it has not started."""
        if self._thread.ident is None:
            with self._starting:
                if self._thread.ident is None:
                    self._thread.start()

    def close(self, last: Iterable[Callable[[], None]] = ()) -> None:
        """Call these `last` looks, and send nothing more."""
        self._ending.set()
        self._lost.set()
        if self._thread.ident is not None:
            self._thread.join(2)
        if not self._thread.is_alive():  # else it waits for Redis
            for look in last:
                self._safely(look)
        with suppress(Exception):  # of a connection that has gone
            self._client.close()

    def _run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts in one round trip, and once more where Redis has forgotten them. Raises what Redis raises."""
        for last in (False, True):
            pipeline = self._client.pipeline(transaction=False)
            for script, key, arguments in calls:
                if self._by_text:
                    pipeline.execute_command("EVAL", script, 1, key, *arguments)
                else:
                    pipeline.evalsha(self._shas.get(script) or self._load(script), 1, key, *arguments)
            replies = pipeline.execute(raise_on_error=False)
            failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if failed is None:
                if len(replies) != len(calls):
                    raise ValueError(f"{len(replies)} answers to {len(calls)} scripts")
                return list(replies)
            if last or not isinstance(failed, self._missing):
                raise failed
            self._shas.clear()  # it has forgotten its scripts: a restart, or SCRIPT FLUSH
        raise AssertionError

    def _load(self, script: str) -> str:
        sha = self._client.script_load(script)
        self._shas[script] = sha if isinstance(sha, str) else sha.decode()
        return self._shas[script]

    def _watch(self) -> None:
        """Notice when Redis is back, and look after what is kept there."""
        wait = MIN_BACKOFF
        while not self._ending.is_set():
            if self._up:
                if not self._lost.wait(WATCH_INTERVAL):
                    wait = MIN_BACKOFF  # it has stayed for a while
            elif not self._ending.wait(wait):
                wait = min(2 * wait, MAX_BACKOFF)
                try:
                    if self._run([ScriptCall(PROBE, self._probed, [])]) != [1]:
                        continue
                except Exception:
                    continue
                self._lost.clear()
                self._up = True
                if (suppressed := self._throttle.admit("back")) is not None:
                    log.info("state: Redis is back%s", and_more(suppressed))
            if self._up and not self._ending.is_set():
                for look in self.looks:
                    self._safely(look)

    def _safely(self, look: Callable[[], None]) -> None:
        """Call a function and log what it raises, which must not end the watching thread."""
        try:
            look()
        except Exception as error:
            log.error("state: a look at Redis failed: %s: %s", type(error).__name__, error)


def _client(config: StateConfig, seconds: float) -> tuple[Any, type[Exception]]:
    """A client that raises at once when something fails, and the exception that it raises for an unknown script."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise ConfigError("state: Redis needs its client: pip install 'tocsin[redis]'") from None
    how: dict[str, Any] = {"protocol": 3, "socket_timeout": seconds, "socket_connect_timeout": seconds}
    how["decode_responses"] = True
    if config.username:
        how["username"] = config.username
    if config.password is not None:
        how["password"] = _read(config.password)
    if config.ca is not None:
        how["ssl_ca_certs"] = str(config.ca)
    if config.cluster:
        try:
            client: Any = redis.RedisCluster.from_url(config.redis, retry=Retry(NoBackoff(), 0), **how)
        except redis.RedisError as error:
            raise ConfigError(
                f"state: {redacted_url(config.redis)}: no node of a cluster to be had there ({error})"
            ) from None
    elif config.sentinel:
        addresses, database = config.sentinels()
        how |= {"db": database, "retry": Retry(NoBackoff(), 0), "ssl": config.redis.startswith("rediss:")}
        options = {name: value for name, value in how.items() if name.startswith(("socket_", "ssl", "decode_"))}
        sentinels: Any = redis.sentinel.Sentinel(addresses, sentinel_kwargs=options, **how)  # type: ignore[no-untyped-call]
        client = sentinels.master_for(config.sentinel, redis.Redis)
    else:
        client = redis.Redis.from_url(config.redis, retry=Retry(NoBackoff(), 0), **how)
    return client, redis.exceptions.NoScriptError


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"state: {path}: cannot be read ({error.strerror})") from None
