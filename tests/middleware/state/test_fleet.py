"""Claims about evidence of a whole fleet: what replicas count is weighed together, each count once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
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
    far_away,
    free_port,
    inference,
    running,
    settings,
)
from benchmarks.harness.redis_server import RedisServer, redis_cluster, redis_sentinels

from tocsin.configuration.state import StateConfig
from tocsin.judgement.guard import Guard
from tocsin.sinks.evidence import Evidence
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.sinks.tally import POOLED
from tocsin.state.redis_connection import RedisConnection, ScriptCall
from tocsin.state.redis_counts import SharedCounts
from tocsin.state.store import Exchange
from tocsin_calibration import Promise, calibrate


@pytest.fixture(scope="module")
def promise() -> Promise:
    return calibrate(np.random.default_rng(0).normal(size=(3_000, 2)))


class Replica:
    """A replica's evidence, and its way to the others."""

    def __init__(self, promise: Promise, url: str, **config: Any) -> None:
        self.evidence = Evidence(promise, 1_000, fixed=True)
        self.connection = RedisConnection(StateConfig(redis=url, **config))
        self.shared = SharedCounts(self.connection, "test")

    def see(self, promise: Promise, scores: Any) -> None:
        judged = promise.judge(scores)
        alarmed: dict[tuple[str, str], int] = {}
        for severity in judged.severities:
            if severity is not None:
                alarmed[POOLED, severity] = alarmed.get((POOLED, severity), 0) + 1
        facts = {"rows": len(scores), "of_group": {}, "joint": judged.joint, "sequence": []}
        self.evidence.read({**facts, "alarmed": [[*key, count] for key, count in alarmed.items()]})

    def exchange(self) -> None:
        for more in self.shared.exchange({"digits": self.evidence.counts()}).values():
            self.evidence.add_counts(more)


def settled(replicas: list[Replica]) -> None:
    for _ in range(2):
        for replica in replicas:
            replica.exchange()


@pytest.fixture
def replicas(server: RedisServer, promise: Promise) -> Iterator[list[Replica]]:
    redis.Redis.from_url(server.url).flushall()
    started = [Replica(promise, server.url, timeout="20s") for _ in range(4)]
    yield started
    for replica in started:
        replica.connection.close()


def test_the_counts_of_replicas_add_up_to_those_of_one(replicas: list[Replica], promise: Promise) -> None:
    draw, choose = np.random.default_rng(1), random.Random(1)
    alone = Evidence(promise, 1_000, fixed=True)
    everything = []
    for _ in range(60):
        scores = draw.normal(size=(choose.randrange(1, 60), 2)) * 1.2
        everything.append(scores)
        replica = choose.choice(replicas)
        replica.see(promise, scores)
        if choose.random() < 0.5:
            replica.exchange()
    settled(replicas)
    everything_seen = Replica.__new__(Replica)
    everything_seen.evidence = alone
    everything_seen.see(promise, np.concatenate(everything))
    counts = [replica.evidence.counts() for replica in replicas]
    assert counts == [alone.counts()] * 4
    assert all(replica.evidence.promise().keys() == {"warning", "critical"} for replica in replicas)


def test_a_rate_too_small_to_see_in_one_replica_is_seen_by_all(replicas: list[Replica], promise: Promise) -> None:
    draw = np.random.default_rng(2)
    alone = [Evidence(promise, 1_000, fixed=True) for _ in replicas]
    for replica, lonely in zip(replicas, alone, strict=True):
        scores = draw.normal(size=(400, 2)) * 1.14
        replica.see(promise, scores)
        shared_evidence, replica.evidence = replica.evidence, lonely
        replica.see(promise, scores)
        replica.evidence = shared_evidence
    settled(replicas)
    together = [replica.evidence.promise()["warning"] for replica in replicas]
    assert min(together) > max(evidence.promise()["warning"] for evidence in alone) + 0.5


def test_replicas_whose_counts_have_other_places_are_no_replicas_of_each_other(server: RedisServer) -> None:
    """As an older and a newer version are, while one replaces the other: each adds up with its like."""
    redis.Redis.from_url(server.url).flushall()
    connections = [RedisConnection(StateConfig(redis=server.url, timeout="20s")) for _ in range(4)]
    old, new, old_too, new_too = (SharedCounts(connection, "test") for connection in connections)
    counted: list[tuple[SharedCounts, list[int]]] = [
        (old, [1, 2, 3]), (new, [10, 20, 30, 40]), (old_too, [100, 0, 0]), (new_too, [1_000, 0, 0, 7])
    ]  # fmt: skip
    for _ in range(2):
        for shared, counts in counted:
            for more in shared.exchange({"digits": counts}).values():
                counts[:] = [had + others for had, others in zip(counts, more, strict=True)]
    assert [counts for _, counts in counted] == [[101, 2, 3], [1_010, 20, 30, 47]] * 2
    for connection in connections:
        connection.close()


def test_a_report_whose_answer_is_lost_is_counted_once(replicas: list[Replica], promise: Promise) -> None:
    first, second = replicas[:2]
    first.see(promise, np.zeros((100, 2)))
    real = first.connection.run

    def lose(calls: Any) -> Any:
        real(calls)
        from tocsin.state.redis_connection import RedisUnavailable

        raise RedisUnavailable

    first.connection.run = lose  # type: ignore[method-assign]
    first.exchange()
    first.see(promise, np.zeros((10, 2)))
    first.connection.run = real  # type: ignore[method-assign]
    settled([first, second])
    settled([first, second])
    assert second.evidence.counts() == first.evidence.counts()
    assert sum(first.evidence.counts()[-20:]) == 110


def test_a_redis_that_lost_its_memory_takes_nothing_back(
    replicas: list[Replica], promise: Promise, server: RedisServer
) -> None:
    for replica in replicas:
        replica.see(promise, np.zeros((50, 2)))
    settled(replicas)
    for _ in range(2):
        redis.Redis.from_url(server.url).flushall()
        for replica in replicas:
            replica.see(promise, np.zeros((5, 2)))
        settled(replicas)
    assert [sum(replica.evidence.counts()[-20:]) for replica in replicas] == [240] * 4


def test_a_replica_that_starts_later_knows_what_was_counted(
    replicas: list[Replica], promise: Promise, server: RedisServer
) -> None:
    replicas[0].see(promise, np.zeros((70, 2)))
    settled(replicas)
    late = Replica(promise, server.url, timeout="20s")
    late.exchange()
    assert late.evidence.counts() == replicas[0].evidence.counts()
    late.evidence = Evidence(promise, 1_000, fixed=True)  # its bundle was changed and changed back
    late.see(promise, np.zeros((7, 2)))
    settled([late, *replicas])
    assert [sum(replica.evidence.counts()[-20:]) for replica in (late, *replicas)] == [77] * 5
    late.connection.close()


def test_replicas_go_on_while_redis_is_away_and_meet_again(promise: Promise) -> None:
    redis_server_of_test = RedisServer()
    replicas = [Replica(promise, redis_server_of_test.url, timeout="20s") for _ in range(2)]
    for replica in replicas:
        replica.see(promise, np.zeros((50, 2)))
    settled(replicas)
    redis_server_of_test.kill()
    for replica in replicas:
        replica.see(promise, np.zeros((5, 2)))
        replica.exchange()
        assert sum(replica.evidence.counts()[-20:]) == 105
    redis_server_of_test.start()  # empty
    ends = time.monotonic() + 60
    while not all(replica.connection.up for replica in replicas):
        assert time.monotonic() < ends
        time.sleep(0.05)
    settled(replicas)
    assert [sum(replica.evidence.counts()[-20:]) for replica in replicas] == [110] * 2
    for replica in replicas:
        replica.connection.close()
    redis_server_of_test.kill()


def test_a_cluster_adds_them_up_too(promise: Promise, tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as url:
        replicas = [Replica(promise, url, cluster=True, timeout="20s") for _ in range(2)]
        for replica in replicas:
            replica.see(promise, np.zeros((50, 2)))
        settled(replicas)
        assert [sum(replica.evidence.counts()[-20:]) for replica in replicas] == [100] * 2
        for replica in replicas:
            replica.connection.close()


def test_sentinels_lead_to_the_master_there_is(promise: Promise, tmp_path: Path) -> None:
    with redis_sentinels(tmp_path) as (master, url):
        replicas = [Replica(promise, url, sentinel="mine", timeout="1s") for _ in range(2)]
        ends = time.monotonic() + 60
        while (
            replicas[0]
            .connection.run([ScriptCall("return redis.call('INFO', 'replication')", "k", [])])[0]
            .count("state=online")
            < 1
        ):  # the replica follows
            assert time.monotonic() < ends
            time.sleep(0.1)
        for replica in replicas:
            replica.see(promise, np.zeros((50, 2)))
        settled(replicas)
        time.sleep(1.5)  # until the replica has it, and the sentinels know of each other
        master.kill()
        for replica in replicas:
            replica.see(promise, np.zeros((5, 2)))
        while {sum(replica.evidence.counts()[-20:]) for replica in replicas} != {110}:
            assert time.monotonic() < ends
            settled(replicas)
            time.sleep(0.2)
        for replica in replicas:
            replica.connection.close()


def shown(relay: Running) -> tuple[float, float]:
    """Evidence of drift, and against the warnings' promise."""
    samples = {}
    for line in relay.metrics.splitlines():
        name, _, value = line.rpartition(" ")
        samples[name] = value
    drift = float(samples['tocsin_drift_log_evalue{model="digits"}'])
    return drift, float(samples['tocsin_promise_log_evalue{model="digits",severity="warning"}'])


def test_relays_show_the_evidence_of_all(server: RedisServer, bundle: Path) -> None:
    redis.Redis.from_url(server.url).flushall()
    shared = {"state": {"redis": server.url, "timeout": "10s"}}
    with model_server() as (upstream, address):
        upstream.answers = {b"far": inference(far_away(8), slice(0, 8))}
        with (
            running(settings(address, bundle, **shared)) as first,
            running(settings(address, bundle, **shared)) as second,
        ):
            quiet = shown(second)
            with grpc.insecure_channel(first.target) as channel:
                for _ in range(6):
                    channel.unary_unary(INFER)(b"far", timeout=60)
            ends = time.monotonic() + 60
            while shown(second) != shown(first) or shown(second) == quiet:  # only one of them has seen anything
                assert time.monotonic() < ends
                time.sleep(0.2)
            assert shown(second)[1] > 4.6


def test_what_a_replica_counts_until_it_ends_is_the_others_too(server: RedisServer, bundle: Path) -> None:
    redis.Redis.from_url(server.url).flushall()
    shared = {"state": {"redis": server.url, "timeout": "10s"}}
    guard = Guard.open(settings(1, bundle, **shared))
    sink = PrometheusSink(guard.models)
    guard.sinks.append(sink)
    exchanged: list[bool] = []

    def exchange(shared: Exchange, *, last: bool = False) -> None:
        sink.exchange(shared, last=last)
        exchanged.append(last)

    guard.state.share(exchange)
    ends = time.monotonic() + 60
    while not exchanged:  # the next comes seconds later, that of the parts half a minute later
        assert time.monotonic() < ends
        time.sleep(0.01)
    call = guard.call(INFER, {})
    assert call is not None
    judged = call.on_response_message(inference(far_away(8), slice(0, 8)))
    assert judged is not None
    guard.judge([judged])
    guard.state.close()
    assert exchanged[-1] and exchanged.count(True) == 1
    assert guard.models["digits"].scoring is not None
    successor = PrometheusSink(Guard.open(settings(1, bundle)).models)
    counts = SharedCounts(
        RedisConnection(StateConfig(redis=server.url, timeout="20s")), StateConfig(redis=server.url).prefix
    )
    successor.exchange(counts.exchange)
    for of_sink in (sink, successor):
        evidence = of_sink._series["digits"].judged.evidence  # type: ignore[union-attr]
        assert sum(evidence.counts()) == 8 * 3  # two severities, and drift
        assert sum(evidence.counts_by_cause()["causes"]) == 8 * 2  # two detectors


def test_workers_are_one_replica(server: RedisServer, bundle: Path, tmp_path: Path) -> None:
    redis.Redis.from_url(server.url).flushall()
    config, listen, metrics = tmp_path / "tocsin.yaml", free_port(), free_port()
    with model_server() as (upstream, address):
        upstream.answers = {b"far": inference(far_away(8), slice(0, 8))}
        model = {"bundle": str(bundle), "signals": SIGNALS}
        config.write_text(yaml.safe_dump({
            "listen": f"127.0.0.1:{listen}", "upstream": address, "metrics": f"127.0.0.1:{metrics}", "admin": None,
            "scoring_budget": "60s",
            "workers": 2, "state": {"redis": server.url, "timeout": "10s"}, "models": {"digits": model},
        }))  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(config)], env=at_once())
        try:
            with running(settings(address, bundle, state={"redis": server.url, "timeout": "10s"})) as other:
                with grpc.insecure_channel(f"127.0.0.1:{listen}", TRIES_AGAIN_SOON) as channel:
                    for _ in range(6):
                        channel.unary_unary(INFER)(b"far", wait_for_ready=True, timeout=60)
                ends = time.monotonic() + 60
                while shown(other)[1] < 4.6:
                    assert time.monotonic() < ends
                    time.sleep(0.2)
                with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics") as answer:
                    assert b"\ntocsin_state_up 1.0\n" in answer.read()
        finally:
            process.terminate()
            process.wait(60)
