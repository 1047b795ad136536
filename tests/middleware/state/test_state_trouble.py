"""Claims about a Redis that is there and no help, being slow or wrong: every response is judged all the same."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from benchmarks.harness.by_hand import until
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import SIGNALS, inference, running, settings
from benchmarks.harness.redis_server import RedisServer
from benchmarks.harness.served import SAFE, ask, in_sessions, metric
from tests.middleware.state.sessions import judged, promise_of, store_of

from tocsin.configuration.config import Config
from tocsin.configuration.state import StateConfig
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin.state.memory import MemorySessions
from tocsin.state.opening import State
from tocsin.state.redis_labels import RedisLabels


class Slowly:
    """A way to a Redis on which every answer takes so long."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port, self.seconds = port, seconds
        self.loop = asyncio.new_event_loop()
        self.port = self.loop.run_until_complete(self._open())
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def _open(self) -> int:
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(listener.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        with suppress(ConnectionError):
            await asyncio.gather(self._carry(reader, back, 0.0), self._carry(there, writer, 1.0))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, share: float) -> None:
        while content := await reader.read(1 << 16):
            await asyncio.sleep(share * self.seconds)
            writer.write(content)
        writer.close()


@contextmanager
def slowly(port: int, seconds: float) -> Iterator[Slowly]:
    proxy = Slowly(port, seconds)
    yield proxy
    proxy.loop.call_soon_threadsafe(proxy.loop.stop)


def verdicts(relay: Any, calls: int) -> list[str | None]:
    """Why responses were not judged, None where they were."""
    return [ask(relay, b"%d" % row, ("x-session", f"s{row % 3}")).unscored for row in range(calls)]


# -- slow


@pytest.mark.parametrize(("seconds", "timeout", "up"), [(0.15, "10s", 1), (3.0, "1s", 0)])
def test_no_delay_of_redis_makes_verdicts_late(
    server: RedisServer, tmp_path: Path, seconds: float, timeout: str, up: int
) -> None:
    """Slower than the budget of 5 ms and quicker than the timeout; and slower than both."""
    bundle = in_sessions(tmp_path / "b.tocsin")
    with slowly(server.port, seconds) as way:
        with state_of(bundle, f"redis://127.0.0.1:{way.port}/0", timeout=timeout) as relay:
            assert verdicts(relay, 4) == [None] * 4
            assert metric(relay, 'tocsin_unscored_total{model="digits",reason="late"}') == 0
            assert metric(relay, "tocsin_state_up") == up
            assert (metric(relay, 'tocsin_state_requests_total{outcome="failed"}') > 0) == (not up)


@contextmanager
def state_of(bundle: Path, url: str, timeout: str, **more: Any) -> Iterator[Any]:
    with model_server() as (model, address):
        model.answers = {b"%d" % row: inference(SAFE, slice(row, row + 1)) for row in range(SAFE.rows)}
        model_settings = {"bundle": bundle, "signals": SIGNALS, "session": "metadata.x-session"}
        with running(
            settings(
                address, bundle, models={"digits": model_settings}, state={"redis": url, "timeout": timeout}, **more
            )
        ) as relay:
            yield relay


def fitted(bundle: Path, session: str = "metadata.x-session", **more: Any) -> Config:
    model_settings = {"bundle": bundle, "signals": SIGNALS, "session": session}
    timeout = {"timeout": more.pop("timeout")} if "timeout" in more else {}
    state = {"redis": "redis://127.0.0.1:1/0", **timeout}
    config = settings(1, bundle, models={"digits": model_settings}, state=state).model_dump(exclude_unset=True)
    del config["scoring_budget"]  # the default is what these tests are about
    return Config(**{**config, **more})


@pytest.mark.parametrize(
    ("more", "round_trip", "budget"),
    [
        ({}, 20, 85),
        ({"timeout": "50ms"}, 50, 205),
        ({"scoring_budget": "5ms"}, 1.25, 5),
        ({"scoring_budget": "1s"}, 20, 1000),
        ({"scoring_budget": "8ms", "timeout": "2ms"}, 2, 8),
    ],
)
def test_budget_and_timeout_fit_each_other(
    tmp_path: Path, more: dict[str, Any], round_trip: float, budget: float
) -> None:
    config = fitted(in_sessions(tmp_path / "b.tocsin"), **more)
    guard = Guard.open(config)
    call = guard.call("/inference.GRPCInferenceService/ModelInfer", {})
    assert call is not None
    assert guard.state.round_trip == timedelta(milliseconds=round_trip)
    assert guard.budget(call) == pytest.approx(budget / 1e3)


def test_a_budget_that_leaves_no_room_for_redis_is_refused(tmp_path: Path) -> None:
    bundle = in_sessions(tmp_path / "b.tocsin")
    message = (
        r"models\.digits: scoring_budget is 5ms, and state\.timeout 20ms: a response may wait for 4 round trips; set "
        r"scoring_budget to 80ms or more, or state\.timeout to 1\.25ms or less"
    )
    with pytest.raises(ConfigError, match=message):
        Guard.open(fitted(bundle, scoring_budget="5ms", timeout="20ms"))


def test_sessions_that_do_not_ask_redis_keep_the_plain_budget(tmp_path: Path) -> None:
    guard = Guard.open(fitted(in_sessions(tmp_path / "b.tocsin"), "connection"))
    call = guard.call("/inference.GRPCInferenceService/ModelInfer", {})
    assert call is not None and guard.budget(call) == 0.005


# -- wrong answers

NONSENSE = {
    "a list": lambda store, key: store.rpush(key, "x"),
    "a score that is none": lambda store, key: store.hset(key, mapping={"n": 1, "s": "nonsense", "g": "-", "k": 0}),
    "nan": lambda store, key: store.hset(key, mapping={"n": 1, "s": "nan", "g": "-", "k": 0}),
    "a grade beyond all": lambda store, key: store.hset(key, mapping={"n": 1, "s": "0.5", "g": "7", "k": 0}),
    "a grade below all": lambda store, key: store.hset(key, mapping={"n": 1, "s": "0.5", "g": "-1", "k": 0}),
    "too many scores": lambda store, key: store.hset(key, mapping={"n": 9, "s": "1 2 3 4 5 6 7 8 9", "g": "-", "k": 0}),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_what_others_wrote_into_sessions_is_not_believed(
    server: RedisServer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    promise, client = promise_of(), redis.Redis.from_url(server.url)
    client.flushall()
    state = State(StateConfig(redis=server.url, timeout="20s"))  # type: ignore[arg-type]
    store = store_of(state, promise)
    alone = MemorySessions(promise.sessions, 600, 10_000)  # type: ignore[arg-type]
    rows = np.random.default_rng(1).normal(size=(40, 2))
    judged(store, promise, ["a"], rows[:1])
    (key,) = [key for key in client.scan_iter() if b":session:" in key]
    client.delete(key)
    NONSENSE[kind](client, key)
    with caplog.at_level(logging.WARNING, "tocsin"):
        outcome = judged(store, promise, ["a", "b"], rows[1:3])
    assert outcome[:2] == judged(alone, promise, ["a", "b"], rows[1:3])[:2]
    assert "state: Redis is away, and this process goes on by itself" in caplog.text
    (up,) = [sample for family in state.collect() if family.name == "tocsin_state_up" for sample in family.samples]
    assert up.value == 0
    client.flushall()
    until(lambda: state._connection is not None and state._connection.up)  # once it is mended
    state.close()


def test_a_relay_before_a_redis_of_wrong_types_judges_by_itself(server: RedisServer, tmp_path: Path) -> None:
    client = redis.Redis.from_url(server.url)
    client.flushall()
    with state_of(in_sessions(tmp_path / "b.tocsin"), server.url, timeout="10s") as relay:
        assert verdicts(relay, 3) == [None] * 3
        for key in client.scan_iter():
            client.delete(key)
            client.set(key, "of somebody else")
        assert verdicts(relay, 30) == [None] * 30
        until(lambda: metric(relay, 'tocsin_state_requests_total{outcome="failed"}') >= 1)
        assert 'reason="scorer_error"} 0' in relay.metrics
    client.flushall()


ANSWERS = [
    b"-ERR unknown command\r\n", b"+OK\r\n", b":7\r\n", b"*1\r\n*0\r\n", b"$3\r\n\xff\xfe\xfd\r\n", b"nonsense\r\n",
    b"_\r\n", b"%1\r\n+a\r\n+b\r\n", b"*-1\r\n", b"(1" + b"0" * 400 + b"\r\n", b"*1\r\n" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: repr(answer[:12]))
def test_what_is_no_redis_is_away(answer: bytes) -> None:
    """Whoever listens there says the same to everything."""
    promise = promise_of()
    loop = asyncio.new_event_loop()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while request := await reader.read(1 << 16):
                writer.write(answer * max(1, request.count(b"*")))
                await writer.drain()

    other = loop.run_until_complete(asyncio.start_server(accept, "127.0.0.1", 0))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    url = f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}/0"
    state = State(StateConfig(redis=url, timeout="500ms"))  # type: ignore[arg-type]
    store = store_of(state, promise)
    alone = MemorySessions(promise.sessions, 600, 10_000)  # type: ignore[arg-type]
    rows = np.random.default_rng(2).normal(size=(6, 2))
    assert judged(store, promise, ["a"] * 6, rows)[:2] == judged(alone, promise, ["a"] * 6, rows)[:2]
    connection = state._connection
    assert connection is not None and connection.counts["done"] == 0
    assert RedisLabels(connection, "t").leave([("j-1", True)]) is False
    state.close()
    loop.call_soon_threadsafe(loop.stop)


def test_labels_and_counts_of_wrong_types_are_away(server: RedisServer) -> None:
    client = redis.Redis.from_url(server.url)
    client.flushall()
    state = State(StateConfig(redis=server.url, timeout="20s"))  # type: ignore[arg-type]
    connection = state._connection
    assert connection is not None
    client.rpush("tocsin:labels:j", "no label", "")
    learnt: list[str] = []
    RedisLabels(connection, "tocsin").fetch({"j": lambda identifier, safe: learnt.append(identifier)})
    assert learnt == [] and not connection.up
    until(lambda: connection.up)
    client.hset("tocsin:{k/1}:counts", mapping={"epoch": "e", "0": "many"})
    shared: list[Any] = []
    state.share(lambda exchange, *, last=False: shared.append(exchange({"k": [1]})))
    until(lambda: shared)
    assert shared[0] == {}
    state.close()
