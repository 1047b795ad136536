"""Claims about what is kept of a session's previous response: bounded here, shared by replicas in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from benchmarks.harness.redis_server import RedisServer, redis_server

from tocsin.configuration.model import ModelConfig
from tocsin.configuration.state import StateConfig
from tocsin.state.opening import State
from tocsin.state.previous import MemoryPrevious, PreviousStore, RedisPrevious

PATIENT = timedelta(seconds=20)  # Redis on a busy machine is slow, not away


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as process:
        yield process


def store_of(state: State, session: str = "metadata.x-session-id") -> PreviousStore:
    return state.previous("robot", ModelConfig(signals={"a": "response.outputs.a"}, session=session))  # type: ignore[dict-item]


def test_the_longest_silent_are_forgotten_when_sessions_or_bytes_are_too_many() -> None:
    now = [0.0]
    store = MemoryPrevious(10.0, 3, max_bytes=100, clock=lambda: now[0])
    assert store.exchange([("a", b"1"), ("b", b"2"), ("a", b"3")]) == [None, None, b"1"]
    store.exchange([("c", b"4"), ("d", b"5")])
    assert len(store) == 3 and store.exchange([("b", b"6")]) == [None]  # b was silent for longest
    store.exchange([("e", bytes(99))])
    assert len(store) == 2 and store.exchange([("b", b"7"), ("e", b"")]) == [b"6", bytes(99)]
    store.exchange([("f", bytes(101))])  # larger than all that may be kept
    assert len(store) == 0
    store.exchange([("g", b"8")])
    now[0] = 10.1
    assert store.exchange([("g", b"9")]) == [None]
    store.drop("g")
    assert store.exchange([("g", b"10")]) == [None]


def test_replicas_share_them_in_redis(server: RedisServer) -> None:
    states = [State(StateConfig(redis=server.url, timeout=PATIENT)) for _ in range(2)]
    try:
        first, second = (store_of(state) for state in states)
        assert isinstance(first, RedisPrevious) and first.shared
        signals = bytes(range(256))
        assert first.exchange([("s", signals), ("t", b"t")]) == [None, None]
        assert second.exchange([("s", b"2"), ("s", b"3")]) == [signals, b"2"]
        assert first.exchange([("s", b"4")]) == [b"3"]
        first.drop("s")
        assert first.exchange([("s", b"5"), ("t", b"u")]) == [None, b"t"]
        client: Any = redis.Redis.from_url(server.url)
        keys = [key.decode() for key in client.keys("*")]
        assert len(keys) == 2 and all(key.startswith("tocsin:robot:previous:") for key in keys)
        assert all(0 < client.pttl(key) <= 600_000 for key in keys)
        assert isinstance(store_of(states[0], "stream"), MemoryPrevious)  # streams stay in one process
    finally:
        for state in states:
            state.close()


def test_while_redis_is_away_a_process_knows_its_own_and_nothing_stale_comes_after(server: RedisServer) -> None:
    state = State(StateConfig(redis=server.url, timeout=PATIENT))
    try:
        store = store_of(state)
        assert isinstance(store, RedisPrevious)
        store.exchange([("s", b"1"), ("t", b"t")])
        state._connection._up = False  # type: ignore[union-attr]
        assert store.exchange([("s", b"2")]) == [None]  # what was before it is in Redis
        assert store.exchange([("s", b"3")]) == [b"2"]
        state._connection._up = True  # type: ignore[union-attr]
        assert store.exchange([("s", b"4"), ("t", b"u")]) == [b"3", b"t"]  # not b"1"
        assert store.exchange([("s", b"5")]) == [b"4"]
    finally:
        state.close()


def test_what_others_have_written_there_is_no_signal(server: RedisServer) -> None:
    state = State(StateConfig(redis=server.url, timeout=PATIENT))
    try:
        store = store_of(state)
        store.exchange([("s", b"1")])
        client: Any = redis.Redis.from_url(server.url)
        (key,) = client.keys("*")
        client.set(key, "not base64!")
        assert store.exchange([("s", b"2")]) == [None]
    finally:
        state.close()
