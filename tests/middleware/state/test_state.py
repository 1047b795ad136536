"""Claims about sessions, wherever they are kept: each is judged as promised, and ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from benchmarks.harness.by_hand import until
from benchmarks.harness.parts import (
    running,
    settings,
)
from benchmarks.harness.redis_server import RedisServer
from tests.middleware.state.sessions import PATIENT, RULES, judged, promise_of, store_of

from tocsin.configuration.state import StateConfig
from tocsin.names import MAX_LENGTH
from tocsin.state.memory import MemorySessions
from tocsin.state.opening import State
from tocsin_calibration import Bundle, Window


@pytest.fixture(params=["memory", "redis"])
def state(request: pytest.FixtureRequest) -> Iterator[State]:
    config = None
    if request.param == "redis":
        server = request.getfixturevalue("server")
        redis.Redis.from_url(server.url).flushall()
        config = StateConfig(redis=server.url, timeout=PATIENT)
    opened = State(config)
    yield opened
    opened.close()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_session_is_judged_as_promised_batch_after_batch(state: State, rule: dict[str, Any]) -> None:
    promise = promise_of(**rule)
    store = store_of(state, promise)
    draw = np.random.default_rng(4)
    scores = draw.normal(size=(60, 2)) * 1.3
    expected = promise.judge(scores, sessions=[promise.sessions.start()] * 60)  # type: ignore[union-attr]
    pvalues: list[Any] = []
    severities: list[Any] = []
    at = 0
    while at < 60:
        size = int(draw.integers(1, 14))
        p, s, _ = judged(store, promise, ["one"] * len(scores[at : at + size]), scores[at : at + size])
        pvalues, severities, at = pvalues + p, severities + s, at + size
    assert pvalues == expected.pvalues and severities == expected.severities


def test_silent_sessions_end_with_their_worst_and_begin_anew(state: State) -> None:
    promise = promise_of()
    store = store_of(state, promise, session_idle="2s")
    high, low = np.full((1, 2), 9.0), np.full((1, 2), -9.0)
    ended: list[Any] = []
    for key, score in (("bad", low), ("bad", high), ("good", low)):
        ended += judged(store, promise, [key], score)[2]
    assert ended == []

    def has_ended() -> bool:
        ended.extend(judged(store, promise, [""], low)[2])  # a row that names none ends at once
        return "critical" in ended and ended.count(None) >= 2

    until(has_ended)
    assert ended.count("critical") == 1
    again, _, _ = judged(store, promise, ["bad"], low)
    assert again == judged(store, promise, [""], low)[0]  # nothing of the old session is left


def test_the_longest_silent_session_ends_when_there_are_too_many(state: State) -> None:
    promise = promise_of()
    store = store_of(state, promise, max_sessions=3)
    low = np.full((1, 2), -9.0)
    ended: list[Any] = []
    for number in range(6):
        ended += judged(store, promise, [f"s{number}"], low)[2]
        time.sleep(0.01)

    def have_ended() -> bool:
        ended.extend(judged(store, promise, ["s5"], low)[2])
        return len(ended) == 3

    until(have_ended)
    assert ended == [None] * 3


def test_stretches_are_told_once_they_are_whole(state: State) -> None:
    promise = promise_of(every=4)
    store = store_of(state, promise)
    ended: list[Any] = []
    for score in [-9.0, 9.0, -9.0, -9.0, *[-9.0] * 4, -9.0]:
        ended += judged(store, promise, ["endless"], np.full((1, 2), score))[2]
    assert ended == ["critical", None]


def test_a_bundle_without_sessions_asks_redis_nothing(server: RedisServer, bundle: Path) -> None:
    assert Bundle.read(bundle).require_promise().sessions is None
    config = settings(1, bundle, state={"redis": server.url})
    with running(config) as relay:
        assert not any(model.shares_sessions for model in relay.sidecar.relay.context.guard.models.values())
        assert 'tocsin_state_requests_total{outcome="done"} 0' in relay.metrics


def test_long_names_of_sessions_take_no_more_memory_than_short_ones(state: State) -> None:
    """A session is known by its whole name; what is kept of a long one has a fixed length."""
    promise = promise_of(window=Window(3))
    store = store_of(state, promise)
    names = [f"{end}{'s' * 7_500}{end}" for end in "ab"]
    scores = [np.full((1, 2), value, np.float32) for value in (0.1, 0.2)]
    steps = []
    for _ in range(2):
        for name, score in zip(names, scores, strict=True):
            with store.lock:
                progress = store.begin([name], promise.joint(score).tolist() if store.shared else [])
                promise.judge(score, sessions=progress)
                steps.append(progress[0].step)
                store.end([name], progress)
    assert steps == [1, 1, 2, 2]
    if isinstance(store, MemorySessions):
        assert [len(key) <= MAX_LENGTH for key, _ in store.under_way()] == [True, True]
        assert len(store.finish(names)) == 2 and not len(store)
        assert list(MemorySessions(store._rule, 9.0, 9).under_way()) == []
