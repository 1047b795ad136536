"""Claims about a Redis that goes away, forgets, or wants a password: judging goes on, and what was seen is brought."""

from __future__ import annotations

import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from benchmarks.harness.by_hand import until
from benchmarks.harness.redis_server import RedisServer, redis_server
from pydantic import ValidationError
from tests.middleware.state.sessions import PATIENT, counted, judged, promise_of, store_of

from tocsin.configuration.state import StateConfig
from tocsin.errors import ConfigError
from tocsin.state.opening import State
from tocsin.state.redis_connection import RedisConnection
from tocsin.state.redis_counts import SharedCounts
from tocsin.state.store import Exchange
from tocsin_calibration import Window


def test_scripts_that_redis_has_forgotten_are_told_again(server: RedisServer) -> None:
    promise = promise_of(window=Window(3, "mean"))
    state = State(StateConfig(redis=server.url, timeout=PATIENT))
    try:
        store = store_of(state, promise)
        judged(store, promise, ["one"], np.zeros((1, 2)))
        redis.Redis.from_url(server.url).script_flush()
        judged(store, promise, ["one"], np.zeros((1, 2)))
        assert counted(state)["tocsin_state_requests_total failed"] == 0
    finally:
        state.close()


@pytest.mark.parametrize("trouble", ["killed", "paused"])
def test_while_redis_is_away_judging_goes_on_and_what_was_seen_is_brought(trouble: str) -> None:
    promise = promise_of(window=Window(4, "sum"))
    scores = np.random.default_rng(6).normal(size=(40, 2))
    expected = promise.judge(scores, sessions=[promise.sessions.start()] * 40).pvalues  # type: ignore[union-attr]
    timeout = timedelta(seconds=5) if trouble == "paused" else PATIENT  # which is waited for once
    with redis_server() as server:
        state = State(StateConfig(redis=server.url, timeout=timeout))
        other = State(StateConfig(redis=server.url, timeout=timeout))
        try:
            store, elsewhere = store_of(state, promise), store_of(other, promise)
            if trouble == "paused":
                assert judged(store, promise, ["one"] * 10, scores[:10])[0] == expected[:10]
                server.pause()
                first = 10
            else:
                server.kill()
                first = 0
            for row in range(first, 20):
                pvalues, _, _ = judged(store, promise, ["one"], scores[row : row + 1])
                if first == 0 or row >= first + 3:  # the window holds what this process has seen
                    assert pvalues == expected[row : row + 1]
            counts = counted(state)
            assert counts["tocsin_state_up"] == 0 and counts["tocsin_state_requests_total failed"] == 1
            assert counts["tocsin_state_waiting_scores"] == 20 - first
            server.go_on() if trouble == "paused" else server.start()
            until(lambda: counted(state)["tocsin_state_up"] == 1 and counted(state)["tocsin_state_waiting_scores"] == 0)
            until(lambda: counted(other)["tocsin_state_up"] == 1)
            assert judged(elsewhere, promise, ["one"] * 20, scores[20:])[0] == expected[20:]
            assert counted(state)["tocsin_state_lost_total"] == 0
        finally:
            state.close()
            other.close()


def test_callers_never_wait_for_a_redis_that_is_known_to_be_away() -> None:
    promise = promise_of()
    with redis_server() as server:
        state = State(StateConfig(redis=server.url, timeout="200ms"))  # type: ignore[arg-type]
        try:
            store = store_of(state, promise)
            server.pause()
            requests = []
            run = state._connection._client.pipeline  # type: ignore[union-attr]

            def counting(*what: Any, **how: Any) -> Any:
                if threading.current_thread() is threading.main_thread():
                    requests.append(1)
                return run(*what, **how)

            state._connection._client.pipeline = counting  # type: ignore[union-attr]
            for _ in range(200):
                judged(store, promise, ["one"], np.zeros((1, 2)))
            assert len(requests) == 1
        finally:
            server.go_on()
            state.close()


def test_alarms_of_an_outage_are_told_when_the_session_ends(server: RedisServer) -> None:
    promise = promise_of()
    with redis_server() as mortal:
        state = State(StateConfig(redis=mortal.url, timeout=PATIENT))
        try:
            store = store_of(state, promise, session_idle="700ms")
            mortal.kill()
            judged(store, promise, ["one"], np.full((1, 2), 9.0))
            mortal.start()
            until(lambda: counted(state)["tocsin_state_up"] == 1 and counted(state)["tocsin_state_waiting_scores"] == 0)
            ended: list[Any] = []

            def has_ended() -> bool:
                with store.lock:
                    ended.extend(store.end([], store.begin([], [])))
                return bool(ended)

            until(has_ended)
            assert ended == ["critical"]
        finally:
            state.close()


def test_a_redis_that_wants_a_password_gets_the_one_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    promise = promise_of()
    with redis_server("--requirepass", "s3cret") as server:
        state = State(StateConfig(redis=server.url, timeout=PATIENT, password=tmp_path / "password"))
        try:
            judged(store_of(state, promise), promise, ["one"], np.zeros((1, 2)))
            assert counted(state)["tocsin_state_up"] == 1
        finally:
            state.close()


def test_what_cannot_work_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, message in (("host:6379", "expected redis://"), ("redis://:s3cret@host", "belongs into a file")):
        with pytest.raises(ValidationError, match=message):
            StateConfig(redis=wrong)
    with pytest.raises(ConfigError, match="cannot be read"):
        State(StateConfig(redis="redis://127.0.0.1:1", password=tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"pip install 'tocsin\[redis\]'"):
        State(StateConfig(redis="redis://127.0.0.1:1"))


def test_a_replica_that_ends_after_a_lost_answer_shares_what_it_counted_since(server: RedisServer) -> None:
    redis.Redis.from_url(server.url).flushall()
    config = StateConfig(redis=server.url, timeout="5s", prefix="last")
    state, other = State(config), SharedCounts(RedisConnection(config), config.prefix)
    counts, exchanged = [1], list[bool]()

    def exchange(shared: Exchange, *, last: bool = False) -> None:
        shared({"name": counts})
        exchanged.append(last)

    server.pause()
    state.share(exchange)
    ends = time.monotonic() + 60
    while not exchanged:  # its answer is lost
        assert time.monotonic() < ends
        time.sleep(0.01)
    server.go_on()
    counts[0] = 3
    while not is_up(state):
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert exchanged == [False]  # the next would have come seconds later
    state.close()
    assert other.exchange({"name": [0]}) == {"name": [3]}


def is_up(state: State) -> bool:
    (up,) = [family for family in state.collect() if family.name == "tocsin_state_up"]
    return bool(up.samples[0].value)
