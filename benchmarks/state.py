"""Sessions that hop between eight processes, in one real Redis: decisions as of one process, how many a second, and how
long judging waits while Redis is killed, paused and emptied.

Each process judges batches of scores through the store that a relay uses; which process gets a session's next response
is random. What is compared is every p-value with those of one process that sees everything; and, of calls through eight
whole relays, every verdict in the trailers.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import redis
import yaml
from rich.table import Table

import tocsin
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, SIGNALS, free_port, inference, safe_traffic
from benchmarks.harness.redis_server import RedisServer, redis_server
from benchmarks.harness.served import in_sessions
from benchmarks.report import arguments, at_most, console, finish
from tocsin.configuration.model import ModelConfig
from tocsin.configuration.state import StateConfig
from tocsin.state.memory import MemorySessions
from tocsin.state.opening import State
from tocsin.state.store import SessionStore
from tocsin_calibration import Bundle, Promise, SessionRule, Window, calibrate_sessions

PROCESSES, BATCH = 8, 32
TARGET = 20_000  # responses a second
WAIT = 1.0  # ms that a batch may wait longer, 99 times of 100, while Redis is in trouble


def main() -> None:
    options = arguments(
        __doc__ or "",
        seconds={"type": float, "default": 10.0, "help": "of traffic, for throughput and for trouble each"},
        sessions={"type": int, "default": 5_000, "help": "sessions under way"},
    )
    with redis_server() as server:
        wrong, compared = hopping(server)
        relayed_wrong, relayed = relays(server)
        throughput = busy(server, options.seconds, options.sessions)
        calm = waits(server, options.seconds, None)
        troubles = {kind: waits(server, options.seconds, kind) for kind in ("killed", "paused", "emptied")}
    table = Table("", "batches", "median", "99%", "longest", title="Judging a batch of 4, trouble every second")
    for kind, times in {"calm": calm, **troubles}.items():
        figures = [statistics.median(times), float(np.quantile(times, 0.99)), max(times)]
        table.add_row(kind, f"{len(times):,}", *(f"{1e3 * seconds:.2f} ms" for seconds in figures))
    console.print(table)
    console.print(f"{throughput:,.0f} responses a second by {PROCESSES} processes in batches of {BATCH}")
    console.print(
        f"{compared:,} p-values compared with those of one process, {relayed:,} verdicts of {PROCESSES} relays"
    )
    tails = {kind: 1e3 * float(np.quantile(times, 0.99)) for kind, times in {"calm": calm, **troubles}.items()}
    checks = [at_most("decisions that differ from one process's", wrong, 0)]
    checks.append(at_most("relays' verdicts that differ from one's", relayed_wrong, 0))
    checks.append(at_most(f"{TARGET:,} responses a second, over those reached", TARGET / throughput, 1.0))
    for kind in troubles:
        checks.append(at_most(f"{kind}: a batch waits longer, 99%, ms", tails[kind] - tails["calm"], WAIT))
    finish({"throughput": throughput, "compared": compared, "relayed": relayed, "p99_ms": tails}, checks, options.json)


def promise() -> Promise:
    scores = np.random.default_rng(0).normal(size=(4_000, 4))
    return calibrate_sessions(np.split(scores, 200), {"warning": 0.1, "critical": 0.02}, session=SessionRule(Window(5)))


def opened(url: str, calibrated: Promise, timeout: str = "20ms") -> tuple[State, SessionStore]:
    state = State(StateConfig(redis=url, timeout=timeout))
    store = state.sessions("bench", "sha256:0", calibrated, ModelConfig(signals=SIGNALS))
    state.keep([store])
    return state, store


def judged(store: SessionStore, calibrated: Promise, keys: list[str], scores: Any) -> list[float]:
    with store.lock:
        progress = store.begin(keys, calibrated.joint(scores).tolist())
        judgement = calibrated.judge(scores, sessions=progress)
        store.end(keys, progress)
    return judgement.pvalues


def hopping(server: RedisServer, batches: int = 3_000) -> tuple[int, int]:
    """How many p-values differ from those of one process that sees every batch in the same order; and of how many."""
    calibrated, choose, draw = promise(), random.Random(1), np.random.default_rng(1)
    assert calibrated.sessions is not None
    alone = MemorySessions(calibrated.sessions, 600, 100_000)
    pairs = [opened(server.url, calibrated) for _ in range(PROCESSES)]
    wrong = compared = 0
    for _ in range(batches):
        keys = [f"s{choose.randrange(500)}" for _ in range(choose.randrange(1, 2 * BATCH))]
        scores = draw.normal(size=(len(keys), 4))
        expected = judged(alone, calibrated, keys, scores)
        pvalues = judged(choose.choice(pairs)[1], calibrated, keys, scores)
        wrong += sum(a != b for a, b in zip(pvalues, expected, strict=True))
        compared += len(keys)
    for state, _ in pairs:
        state.close()
    return wrong, compared


def relays(server: RedisServer, calls: int = 2_000) -> tuple[int, int]:
    """The same of calls through whole relays: how many verdicts differ from what one process says, and of how many."""
    choose, answers = random.Random(4), safe_traffic(200, seed=4)
    with ExitStack() as opened_, tempfile.TemporaryDirectory() as folder:
        path = in_sessions(Path(folder) / "sessions.tocsin", window=Window(4, "mean"))
        bundle = Bundle.read(path)
        calibrated = bundle.require_promise()
        assert calibrated.sessions is not None
        alone = MemorySessions(calibrated.sessions, 600, 100_000)
        scores = np.concatenate([bundle.scorer(answers.take(slice(row, row + 1))) for row in range(200)])
        upstream, address = opened_.enter_context(model_server())
        upstream.answers = {b"%d" % row: inference(answers, slice(row, row + 1)) for row in range(200)}
        model = {"bundle": str(path), "signals": SIGNALS, "session": "metadata.x-session", "scoring_budget": "5s"}
        ask = []
        for number in range(PROCESSES):
            port, config = free_port(), Path(folder) / f"{number}.yaml"
            config.write_text(yaml.safe_dump({
                "listen": f"127.0.0.1:{port}", "upstream": address, "mode": "annotate", "metrics": None, "admin": None,
                "state": {"redis": server.url, "timeout": "5s"}, "models": {"digits": model},
            }))  # fmt: skip
            process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(config)])
            opened_.callback(process.wait)
            opened_.callback(process.terminate)
            ask.append(opened_.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}")).unary_unary(INFER))
        wrong = 0
        for _ in range(calls):
            row, session = choose.randrange(200), f"s{choose.randrange(100)}"
            expected = judged(alone, calibrated, [session], scores[row : row + 1])
            _, call = choose.choice(ask).with_call(
                b"%d" % row, metadata=(("x-session", session),), wait_for_ready=True, timeout=60
            )
            verdict = tocsin.verdict(call)
            judged_alike = verdict is not None and np.allclose(verdict.pvalues or [2.0], expected, atol=1e-6)
            wrong += not judged_alike
    return wrong, calls


def busy(server: RedisServer, seconds: float, sessions: int) -> float:
    """Responses a second that the processes judge together."""
    start = multiprocessing.get_context("spawn")
    counts = start.Array("q", PROCESSES)
    go = start.Barrier(PROCESSES + 1)
    shared = (seconds, sessions, counts, go)
    workers = [start.Process(target=_busy, args=(server.url, number, *shared)) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    go.wait()
    for worker in workers:
        worker.join()
    return float(sum(counts[:])) / seconds


def _busy(url: str, number: int, seconds: float, sessions: int, counts: Any, go: Any) -> None:
    calibrated, choose, draw = promise(), random.Random(number), np.random.default_rng(number)
    state, store = opened(url, calibrated, "5s")  # eight processes share two cores
    scores = draw.normal(size=(BATCH, 4))
    go.wait()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        judged(store, calibrated, [f"s{choose.randrange(sessions)}" for _ in range(BATCH)], scores)
        counts[number] += BATCH
    (failed,) = [s.value for f in state.collect() for s in f.samples if s.labels.get("outcome") == "failed"]
    if failed:  # what is judged without Redis is not what is measured
        counts[number] = 0
    state.close()


def waits(server: RedisServer, seconds: float, trouble: str | None) -> list[float]:
    """How long each batch takes, a thousand a second asked for, with trouble every second."""
    calibrated, draw = promise(), np.random.default_rng(2)
    state, store = opened(server.url, calibrated)
    scores = draw.normal(size=(4, 4))
    finished = threading.Event()
    troubling = threading.Thread(target=_trouble, args=(server, trouble, finished))
    troubling.start()
    times, ends = [], time.monotonic() + seconds
    while (began := time.monotonic()) < ends:
        judged(store, calibrated, ["a", "b", "c", "d"], scores)
        times.append(time.monotonic() - began)
        time.sleep(max(0.0, began + 1e-3 - time.monotonic()))
    finished.set()
    troubling.join()
    state.close()
    return times


def _trouble(server: RedisServer, kind: str | None, finished: threading.Event) -> None:
    while not finished.wait(1.0):
        if kind == "killed":
            server.kill()
            finished.wait(0.5)
            server.start()
        elif kind == "paused":
            server.pause()
            finished.wait(0.5)
            server.go_on()
        elif kind == "emptied":
            with redis.Redis.from_url(server.url) as client:
                client.flushall()
                client.script_flush()


if __name__ == "__main__":
    main()
