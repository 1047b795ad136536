"""Claims about sessions that replicas share in a Redis: they are judged as by one."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import redis
import yaml
from benchmarks.harness.by_hand import until
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
from benchmarks.harness.redis_server import RedisServer, redis_cluster
from benchmarks.harness.served import in_sessions
from tests.middleware.state.sessions import PATIENT, RULES, counted, judged, promise_of, store_of

import tocsin
from tocsin.configuration.state import StateConfig
from tocsin.judgement.guard import Guard
from tocsin.state.memory import MemorySessions
from tocsin.state.opening import State
from tocsin.state.redis_connection import RedisConnection, ScriptCall
from tocsin.state.scripts import PUSH
from tocsin_calibration import Bundle, Window


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
