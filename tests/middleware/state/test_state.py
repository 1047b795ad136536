"""Claims about sessions that replicas share: decided as by one process, whatever happens to Redis."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import redis
import yaml
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    TRIES_AGAIN_SOON,
    Running,
    at_once,
    free_port,
    inference,
    running,
    safe_traffic,
    settings,
)
from benchmarks.harness.redis_server import RedisServer, redis_cluster, redis_server
from benchmarks.harness.served import in_sessions
from pydantic import ValidationError

import tocsin
from tocsin.configuration.model import ModelConfig
from tocsin.configuration.state import StateConfig
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin.names import MAX_LENGTH
from tocsin.state.memory import MemorySessions
from tocsin.state.opening import State
from tocsin.state.redis_connection import RedisConnection, ScriptCall
from tocsin.state.scripts import PUSH
from tocsin.state.store import SessionStore
from tocsin_calibration import Bundle, Promise, SessionRule, Window, calibrate_sessions

PATIENT = timedelta(seconds=20)  # Redis on a busy machine is slow, not away

SEVERITIES = {"warning": 0.2, "critical": 0.05}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as redis_process:
        yield redis_process


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        redis.Redis.from_url(request.getfixturevalue("server").url).flushall()


def promise_of(**rule: Any) -> Promise:
    scores = np.random.default_rng(3).normal(size=(2_000, 2))
    return calibrate_sessions(np.split(scores, 200), SEVERITIES, session=SessionRule(**rule), rule="all")


def store_of(state: State, promise: Promise, **model: Any) -> SessionStore:
    config = ModelConfig(signals=SIGNALS, **model)  # type: ignore[arg-type]
    store = state.sessions("digits", "sha256:0123456789abcdef", promise, config)
    state.keep([store])
    return store


def judged(
    store: SessionStore, promise: Promise, keys: list[str], scores: Any
) -> tuple[list[Any], list[Any], list[Any]]:
    """P-values and severities of rows, and what has ended."""
    with store.lock:
        progress = store.begin(keys, promise.joint(scores).tolist())
        judgement = promise.judge(scores, sessions=progress)
        return judgement.pvalues, judgement.severities, store.end(keys, progress)


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.02)


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


RULES = [{}, {"window": Window(5, "mean")}, {"window": Window(3, "sum")}, {"style": "band"}, {"every": 4}]


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


# -- replicas


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_sessions_that_hop_between_replicas_are_judged_as_by_one(server: RedisServer, rule: dict[str, Any]) -> None:
    promise, draw = promise_of(**rule), np.random.default_rng(5)
    choose = random.Random(5)
    alone = MemorySessions(promise.sessions, 600, 10_000)  # type: ignore[arg-type]
    with ExitStack() as stack:
        states = [State(StateConfig(redis=server.url, timeout=PATIENT)) for _ in range(3)]
        for opened in states:
            stack.callback(opened.close)
        replicas = [store_of(opened, promise) for opened in states]
        ended: list[Any] = []
        alone_ended: list[Any] = []
        for _ in range(150):
            keys = [f"s{choose.randrange(12)}" for _ in range(choose.randrange(1, 9))]
            scores = draw.normal(size=(len(keys), 2)) * 1.3
            p, s, e = judged(choose.choice(replicas), promise, keys, scores)
            expected = judged(alone, promise, keys, scores)
            assert (p, s) == expected[:2]
            ended, alone_ended = ended + e, alone_ended + expected[2]
        assert ended == alone_ended  # stretches, where there are any


def test_a_session_that_ends_is_counted_by_one_replica_alone(server: RedisServer) -> None:
    promise = promise_of()
    with ExitStack() as stack:
        states = [State(StateConfig(redis=server.url, timeout=PATIENT)) for _ in range(3)]
        for opened in states:
            stack.callback(opened.close)
        replicas = [store_of(opened, promise, session_idle="500ms") for opened in states]
        ended: list[Any] = []
        for number in range(60):
            score = 9.0 if number % 3 == 0 else -9.0
            ended += judged(replicas[number % 3], promise, [f"s{number}"], np.full((1, 2), score))[2]

        def all_have_ended() -> bool:
            for replica in replicas:
                with replica.lock:
                    ended.extend(replica.end([], replica.begin([], [])))
            return len(ended) >= 60

        until(all_have_ended)
        time.sleep(1.5)
        all_have_ended()
    assert ended.count("critical") == 20 and ended.count(None) == 40
    assert redis.Redis.from_url(server.url).keys("*") == []


def test_two_relays_judge_hopping_calls_as_one_relay_does(server: RedisServer, tmp_path: Path) -> None:
    bundle = in_sessions(tmp_path / "sessions.tocsin", window=Window(4, "mean"))
    answers = safe_traffic(120, seed=9)
    choose = random.Random(9)
    route = [(row, f"s{choose.randrange(7)}", choose.randrange(2)) for row in range(120)]

    def verdicts(relays: list[Running]) -> list[Any]:
        with ExitStack() as stack:
            channels = [stack.enter_context(grpc.insecure_channel(relay.target)) for relay in relays]
            outcomes = []
            for row, session, which in route:
                ask = channels[which % len(channels)].unary_unary(INFER)
                _, call = ask.with_call(b"%d" % row, metadata=(("x-session", session),), timeout=60)
                verdict = tocsin.verdict(call)
                assert verdict is not None and verdict.unscored is None
                outcomes.append((list(verdict.pvalues), verdict.severity))
        return outcomes

    model = {"bundle": bundle, "signals": SIGNALS, "session": "metadata.x-session", "scoring_budget": "60s"}
    with model_server() as (upstream, address):
        upstream.answers = {b"%d" % row: inference(answers, slice(row, row + 1)) for row in range(120)}
        with running(settings(address, None, models={"digits": model})) as relay:
            expected = verdicts([relay])
        shared = {"models": {"digits": model}, "state": {"redis": server.url, "timeout": "10s"}}
        with (
            running(settings(address, None, **shared)) as first_relay,
            running(settings(address, None, **shared)) as second_relay,
        ):
            assert verdicts([first_relay, second_relay]) == expected
            assert "tocsin_state_up 1" in first_relay.metrics


def test_workers_share_sessions_by_metadata(server: RedisServer, tmp_path: Path) -> None:
    path = in_sessions(tmp_path / "sessions.tocsin", window=Window(3, "sum"))
    bundle, answers = Bundle.read(path), safe_traffic(40, seed=11)
    promise, listen = bundle.require_promise(), free_port()
    expected = promise.judge(bundle.scorer(answers), sessions=[promise.sessions.start()] * 40)  # type: ignore[union-attr]
    with model_server() as (upstream, address):
        upstream.answers = {b"%d" % row: inference(answers, slice(row, row + 1)) for row in range(40)}
        model = {"bundle": str(path), "signals": SIGNALS, "session": "metadata.x-session", "scoring_budget": "60s"}
        config = tmp_path / "tocsin.yaml"
        config.write_text(yaml.safe_dump({
            "listen": f"127.0.0.1:{listen}", "upstream": address, "mode": "annotate", "metrics": None, "admin": None,
            "scoring_budget": "60s",
            "workers": 2, "state": {"redis": server.url, "timeout": "10s"}, "models": {"digits": model},
        }))  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(config)], env=at_once())
        try:
            pvalues = []
            for row in range(40):
                # A connection each, to either worker.
                options = [("grpc.use_local_subchannel_pool", 1), *TRIES_AGAIN_SOON]
                with grpc.insecure_channel(f"127.0.0.1:{listen}", options) as channel:
                    _, call = channel.unary_unary(INFER).with_call(
                        b"%d" % row, metadata=(("x-session", "one"),), wait_for_ready=True, timeout=60
                    )
                verdict = tocsin.verdict(call)
                assert verdict is not None
                pvalues += verdict.pvalues
        finally:
            process.terminate()
            process.wait(60)
    assert pvalues == pytest.approx(expected.pvalues, rel=1e-5)


def test_a_cluster_holds_them_too(tmp_path: Path) -> None:
    promise = promise_of(window=Window(3, "mean"))
    alone = MemorySessions(promise.sessions, 600, 10_000)  # type: ignore[arg-type]
    draw, choose = np.random.default_rng(8), random.Random(8)
    with redis_cluster(tmp_path) as url, ExitStack() as stack:
        states = [State(StateConfig(redis=url, cluster=True, timeout=PATIENT)) for _ in range(2)]  # type: ignore[arg-type]
        for opened in states:
            stack.callback(opened.close)
        replicas = [store_of(opened, promise) for opened in states]
        for _ in range(40):
            keys = [f"s{choose.randrange(12)}" for _ in range(5)]
            scores = draw.normal(size=(5, 2)) * 1.3
            assert judged(choose.choice(replicas), promise, keys, scores) == judged(alone, promise, keys, scores)
        assert counted(states[0])["tocsin_state_requests_total failed"] == 0


def test_a_shadow_of_the_same_bundle_has_sessions_of_its_own(server: RedisServer, tmp_path: Path) -> None:
    path = in_sessions(tmp_path / "sessions.tocsin", window=Window(3, "sum"))
    model = {"bundle": path, "shadow": path, "signals": SIGNALS, "session": "metadata.x-session"}
    guard = Guard.open(settings(1, None, models={"digits": model}, state={"redis": server.url, "timeout": "10s"}))
    bundle, answers = Bundle.read(path), safe_traffic(10, seed=12)
    promise = bundle.require_promise()
    pvalues: list[Any] = []
    expected = promise.judge(bundle.scorer(answers), sessions=[promise.sessions.start()] * 10)  # type: ignore[union-attr]
    for row in range(10):
        call = guard.call(INFER, {"x-session": "one"})
        assert call is not None
        judged_call = call.on_response_message(inference(answers, slice(row, row + 1)))
        assert judged_call is not None
        guard.judge([judged_call])
        guard.shadow([judged_call])
        assert judged_call.verdict is not None
        pvalues += judged_call.verdict.pvalues
    guard.state.close()
    assert pvalues == pytest.approx(expected.pvalues, rel=1e-9)


# -- Redis in trouble


def test_a_batch_is_taken_in_once_however_often_it_is_sent(server: RedisServer) -> None:
    connection = RedisConnection(StateConfig(redis=server.url, timeout=PATIENT))
    try:
        push = ScriptCall(PUSH, "k", ["batch-1", 5, 0, 60_000, "0.1", "0.25"])
        for _ in range(3):
            (answer,) = connection.run([push])
        assert answer == [2, "0.1 0.25", "-", 0, ""]
        connection.run([ScriptCall(PUSH, "k", ["batch-2", 5, 0, 60_000, "0.5"]), push])
        (answer,) = connection.run([ScriptCall(PUSH, "k", ["batch-3", 5, 0, 60_000, "1"])])
        assert answer[:2] == [3, "0.1 0.25 0.5"]
        connection.run([ScriptCall(PUSH, "k", ["batch-40", 9, 0, 60_000, "2"])])
        connection.run([ScriptCall(PUSH, "k", ["batch-4", 9, 0, 60_000, "3"])])  # another name
        (answer,) = connection.run([ScriptCall(PUSH, "k", ["batch-5", 9, 0, 60_000, "4"])])
        assert answer[:2] == [6, "0.1 0.25 0.5 1 2 3"]
    finally:
        connection.close()


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


def counted(state: State) -> dict[str, float]:
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in state.collect()
        for sample in family.samples
    }


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


def test_sessions_have_no_callers_words_in_redis(server: RedisServer) -> None:
    promise = promise_of()
    state = State(StateConfig(redis=server.url, timeout=PATIENT))
    try:
        judged(store_of(state, promise), promise, ["alice@example.org"], np.zeros((1, 2)))
        client = redis.Redis.from_url(server.url)
        keys = b" ".join(client.keys("*"))
        members = b" ".join(client.zrange("tocsin:digits:0123456789abcdef:heard", 0, -1))
        assert keys and members and b"alice" not in keys + members
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


def test_a_bundle_without_sessions_asks_redis_nothing(server: RedisServer, bundle: Path) -> None:
    assert Bundle.read(bundle).require_promise().sessions is None
    config = settings(1, bundle, state={"redis": server.url})
    with running(config) as relay:
        assert not relay.sidecar.relay.context.guard.is_blocking
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
