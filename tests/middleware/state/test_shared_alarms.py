"""Claims about replicas that share a Redis: an alarm of a session is told once, and labels reach who judged."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import grpc
import pytest
import redis
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    far_away,
    free_port,
    inference,
    running,
    settings,
)
from benchmarks.harness.redis_server import RedisServer

import tocsin
from tocsin.configuration.model import AdaptConfig
from tocsin.configuration.state import StateConfig
from tocsin.events.delivery import Delivery
from tocsin.events.spool import Spool
from tocsin.feedback import report
from tocsin.judgement.levels import AdaptiveLevels
from tocsin.state.opening import State
from tocsin.state.redis_claims import LEASE, RedisClaims
from tocsin.state.redis_connection import RedisConnection


class NotingDestination:
    """A destination that notes what it is brought; `fails` so many times first."""

    def __init__(self, fails: int = 0) -> None:
        self.lines: list[bytes] = []
        self.fails = fails

    def send(self, line: bytes) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("not now")
        self.lines.append(line)

    def close(self) -> None:
        pass


def alarm_line(session: str, severity: str, number: int = 0) -> bytes:
    data = {"model": "digits", "bundle": "sha256:0", "session": session, "severity": severity}
    return json.dumps({"type": "tocsin.alarm.v1", "id": str(number), "data": data}).encode() + b"\n"


def delivering(state: State, folder: Path, destination: NotingDestination) -> Delivery:
    return Delivery("webhook", destination, Spool(folder, 1 << 20), state.once(300))


def test_what_one_replica_tells_of_a_session_no_other_tells_again(server: RedisServer, tmp_path: Path) -> None:
    redis.Redis.from_url(server.url).flushall()
    states = [State(StateConfig(redis=server.url, timeout="20s")) for _ in range(3)]  # type: ignore[arg-type]
    destinations = [NotingDestination(fails=1), NotingDestination(), NotingDestination()]
    delivery_queues = [
        delivering(state, tmp_path / str(at), destination)
        for at, (state, destination) in enumerate(zip(states, destinations, strict=True))
    ]
    lines = [
        alarm_line("s1", "warning"),
        alarm_line("s1", "critical"),
        alarm_line("", "warning"),
        b'{"type":"sum","data":{}}\n',
    ]
    for outlet in delivery_queues:
        for line in lines:
            outlet.put(line)
    ends = time.monotonic() + 60
    while sum(outlet.counts["delivered"] + outlet.counts["repeated"] for outlet in delivery_queues) < 12:
        assert time.monotonic() < ends
        time.sleep(0.05)
    everything = [line for destination in destinations for line in destination.lines]
    assert [everything.count(line) for line in lines] == [1, 1, 3, 3]  # those of no session stand alone
    assert sum(outlet.counts["repeated"] for outlet in delivery_queues) == 4
    # Whoever told an alarm may tell it again: its own storms decide that.
    teller = next(at for at, destination in enumerate(destinations) if lines[0] in destination.lines)
    delivery_queues[teller].put(alarm_line("s1", "warning", 2))
    while delivery_queues[teller].waiting:
        time.sleep(0.02)
    assert destinations[teller].lines[-1] == alarm_line("s1", "warning", 2)
    for outlet, state in zip(delivery_queues, states, strict=True):
        outlet.close()
        state.close()


def test_a_teller_that_dies_leaves_its_alarm_to_the_others(server: RedisServer) -> None:
    redis.Redis.from_url(server.url).flushall()
    connections = [RedisConnection(StateConfig(redis=server.url, timeout="20s")) for _ in range(2)]  # type: ignore[arg-type]
    dead, living = (RedisClaims(connection, "test", 300) for connection in connections)
    assert dead.claim("a") == "ours" and living.claim("a") == "elsewhere"
    assert 0 < redis.Redis.from_url(server.url).pttl("test:told:a") <= LEASE
    redis.Redis.from_url(server.url).pexpire("test:told:a", 1)
    time.sleep(0.05)
    assert living.claim("a") == "ours"
    living.mark_delivered("a")
    assert dead.claim("a") == "told"
    for connection in connections:
        connection.close()


def test_without_redis_every_replica_tells_its_own() -> None:
    connection = RedisConnection(StateConfig(redis=f"redis://127.0.0.1:{free_port()}", timeout="50ms"))  # type: ignore[arg-type]
    claims = RedisClaims(connection, "test", 300)
    assert claims.claim("a") == "ours"
    claims.mark_delivered("a")
    connection.close()


def test_a_label_finds_the_replica_that_judged(server: RedisServer, bundle: Path) -> None:
    redis.Redis.from_url(server.url).flushall()
    model = {"bundle": bundle, "signals": SIGNALS, "adapt": {"method": "aci", "step": 0.02}}
    shared = {
        "models": {"digits": model}, "mode": "annotate", "admin": "127.0.0.1:0", "scoring_budget": "60s",
        "state": {"redis": server.url, "timeout": "10s"},
    }  # fmt: skip
    with model_server() as (upstream, address):
        upstream.answers = {b"far": inference(far_away(1), slice(0, 1))}
        with running(settings(address, None, **shared)) as first, running(settings(address, None, **shared)) as second:
            with grpc.insecure_channel(first.target) as channel:
                _, call = channel.unary_unary(INFER).with_call(b"far", timeout=60)
            verdict = tocsin.verdict(call)
            assert verdict is not None
            outcomes = report(
                second.sidecar.admin_address, [("digits", verdict.identifier, True), ("digits", "never", True)]
            )
            assert outcomes == {"learnt": 0, "bad": 0, "duplicate": 0, "unknown": 1, "forwarded": 1}
            ends = time.monotonic() + 60
            learnt = 'tocsin_feedback_total{model="digits",outcome="learnt"} 1'
            while learnt not in first.metrics:
                assert time.monotonic() < ends
                time.sleep(0.1)
            level = 'tocsin_level{model="digits",severity="warning"} 0.031'
            while level not in first.metrics or level not in second.metrics:  # both follow every label
                assert time.monotonic() < ends
                time.sleep(0.1)


@pytest.mark.parametrize("method", ["aci", "pid"])
def test_levels_of_replicas_follow_all_labels_as_one_would(method: str) -> None:
    config, alphas = AdaptConfig(method=method, step=0.02), {"critical": 0.01, "warning": 0.05}  # type: ignore[arg-type]
    alone, replicas = AdaptiveLevels(config, alphas), [AdaptiveLevels(config, alphas) for _ in range(3)]
    choose = random.Random(7)
    for number in range(60):
        levels_of_replica, pvalue = choose.choice(replicas), choose.choice([0.001, 0.03, 0.5])
        for levels in (alone, levels_of_replica):
            levels.decide([str(number)], [pvalue])
    # Decisions were made at the first levels everywhere, so that errors are the same wherever they are learnt.
    for number in range(60):
        alone.label(str(number), True)
        for levels_of_replica in replicas:
            levels_of_replica.label(str(number), True)
    own_counts = [replica.counts() for replica in replicas]
    for at, levels_of_replica in enumerate(replicas):
        others = [counts for other, counts in enumerate(own_counts) if other != at]
        levels_of_replica.add_counts([sum(column) for column in zip(*others, strict=True)])
    for levels_of_replica in replicas:
        assert levels_of_replica.counts() == alone.counts()
        assert levels_of_replica.now() == pytest.approx(alone.now(), rel=1e-9)
    assert alone.now()["warning"] != 0.05


def test_levels_that_are_no_sums_stay_each_replicas_own() -> None:
    assert not AdaptiveLevels(AdaptConfig(method="dtaci"), {"warning": 0.05}).additive
