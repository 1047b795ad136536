"""Claims about what happens when something inside breaks: scorer, sinks, clock, disk, memory."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.parts import (
    INFER,
    Running,
    hold_scores,
    score_by,
    settings,
)
from tests.middleware.service.faulty import ANSWER, outcome, served

import tocsin
from tocsin.judgement.guard import Guard
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Entropy, Observations, compile

FAILS = ["open", "closed"]


def expected(fail: str) -> Any:
    return ANSWER if fail == "open" else grpc.StatusCode.UNAVAILABLE


def unscored(relay: Running, reason: str) -> float:
    line = f'tocsin_unscored_total{{model="digits",reason="{reason}"}} '
    samples = [text for text in relay.metrics.splitlines() if text.startswith(line)]
    return float(samples[0].rpartition(" ")[2]) if samples else 0.0


# -- the scorer


@pytest.mark.parametrize("fail", FAILS)
def test_a_scorer_that_crashes(bundle: Path, fail: str) -> None:
    guard = Guard.open(settings(1, bundle))

    def crash(signals: Any) -> Any:
        raise RuntimeError("out of order")

    score_by(guard.models["digits"].scoring.scorer, crash)
    with served(bundle, guard, fail=fail) as relay:
        assert outcome(relay) == expected(fail)
        assert unscored(relay, "scorer_error") == 1


@pytest.mark.parametrize("fail", FAILS)
def test_a_scorer_that_hangs_and_the_queue_before_it(bundle: Path, fail: str) -> None:
    guard = Guard.open(settings(1, bundle))
    guard.models["digits"].scoring.seconds = 1.0  # too heavy for the loop
    goes_on = hold_scores(guard)
    with served(bundle, guard, fail=fail, scoring_budget="50ms") as relay:
        relay.sidecar.relay.context.batcher.most_waiting = 3
        try:
            with grpc.insecure_channel(relay.target) as channel:
                call = channel.unary_unary(INFER)
                futures = [call.future(b"safe", timeout=60) for _ in range(12)]
                results = [future.exception() or future.result() for future in futures]
                assert not goes_on.is_set()  # nobody waited for the scores
            if fail == "open":
                assert results == [ANSWER] * 12
            else:
                assert {error.code() for error in results} == {grpc.StatusCode.UNAVAILABLE}
            assert unscored(relay, "queue_full") >= 5
        finally:
            goes_on.set()
        until(lambda: unscored(relay, "late") + unscored(relay, "queue_full") == 12)


@pytest.mark.parametrize("fail", FAILS)
def test_a_bundle_of_another_model(bundle: Path, tmp_path: Path, fail: str, caplog: Any) -> None:
    wide = Observations({"probs": np.random.default_rng(0).dirichlet(np.ones(7), 400)})
    scorer = compile([Entropy()], fit_on=wide)
    Bundle(scorer, calibrate(scorer(wide), {"warning": 0.1}), "cats").write(tmp_path / "cats.tocsin")
    with served(tmp_path / "cats.tocsin", fail=fail) as relay:
        assert outcome(relay) == expected(fail)
        assert unscored(relay, "shape") == 1
    assert "was made for 'cats'" in caplog.text


# -- sinks, clock, disk, memory


def test_a_sink_that_fails_takes_no_response_with_it(bundle: Path, caplog: Any) -> None:
    class Down:
        def scored(self, batch: Any) -> None:
            raise ConnectionError("the sink is down")

        unscored = acted = shadowed = lambda self, *what: (_ for _ in ()).throw(ConnectionError("down"))

    guard = Guard.open(settings(1, bundle), [Down()])  # type: ignore[list-item]
    with served(bundle, guard, fail="closed") as relay:
        assert outcome(relay) == ANSWER
        assert outcome(relay, b"\xff") is grpc.StatusCode.UNAVAILABLE
        assert 'tocsin_responses_total{decision="pass"' in relay.metrics
    assert caplog.text.count("sink Down failed") == 1


def test_a_clock_that_jumps_changes_nothing(bundle: Path, monkeypatch: Any) -> None:
    with served(bundle, mode="annotate") as relay, grpc.insecure_channel(relay.target) as channel:
        call = channel.unary_unary(INFER)
        _, before = call.with_call(b"safe", timeout=60)
        real = time.time
        for jump in (-86_400 * 365, 86_400 * 365):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            _, after = call.with_call(b"safe")  # a deadline would be the caller's own affair
            assert tocsin.verdict(after).to_metadata() == tocsin.verdict(before).to_metadata()
            assert 'tocsin_added_seconds_bucket{le="+Inf"}' in relay.metrics


def test_a_full_disk_loses_segments_and_no_traffic(tmp_path: Path) -> None:
    program = f"""
import logging, resource, signal, sys
from pathlib import Path
from benchmarks.harness.parts import INFER, inference, safe_traffic, settings
from tocsin.recording.recorder import Recorder
logging.basicConfig(stream=sys.stdout)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
recorder = Recorder.open(settings(1, None))
recorder.start(Path({str(tmp_path / "safe")!r}), 10_000)
answer = inference(safe_traffic(200), slice(0, 200))
for _ in range(5):
    call = recorder.guard.call(INFER, {{}})
    call.response = answer
    recorder.guard.judge([call])
recorder.close()
print("recorded", recorder.rows)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert "recorded 1000" in done.stdout, done.stderr
    assert "a segment of the recording was lost" in done.stdout
    assert list((tmp_path / "safe").iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2_000


@pytest.mark.parametrize("fail", FAILS)
def test_the_bound_on_memory_is_kept(bundle: Path, fail: str) -> None:
    with served(bundle, fail=fail, max_memory="300KB") as relay:
        big = b"z" * 200_000
        with grpc.insecure_channel(relay.target) as channel:
            call = channel.unary_unary(INFER)
            results = [f.exception() or f.result() for f in [call.future(big, timeout=60) for _ in range(12)]]
        outcomes = {result.code() if isinstance(result, grpc.RpcError) else result == big for result in results}  # type: ignore[attr-defined]
        assert outcomes == ({True} if fail == "open" else {grpc.StatusCode.UNAVAILABLE})
        assert unscored(relay, "memory") + unscored(relay, "undecodable") == 12
        assert relay.sidecar.relay.context.memory.remaining == relay.sidecar.config.max_memory
        assert outcome(relay) == ANSWER


LARGE_MESSAGES = """
import sys
from pathlib import Path
from tocsin.heap import return_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if "give back" in sys.argv:
    return_large_blocks()
bytearray(20 << 20)  # glibc now expects more of that size
before, large, small = resident(), [], []
for _ in range(16):
    large.append(b"x" * (4 << 20))
    small.append(b"y" * 100_000)
large.clear()
print(resident() - before)
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="it is glibc's heap that keeps what is free")
def test_the_memory_of_large_messages_goes_back_to_the_system() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    resident = {}
    for how in ("give back", "leave"):
        command = [sys.executable, "-c", LARGE_MESSAGES, how]
        resident[how] = int(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert resident["leave"] > 60 << 20  # what this is against
    assert resident["give back"] < 4 << 20


HOLES = """
import asyncio, sys
from pathlib import Path
from tocsin import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def main():
    heap.TRIM_SECONDS = 0.01
    before = resident()
    pieces = [b"z" * 30_000 for _ in range(3_000)]
    kept = pieces[::50]  # which is now and then between what is freed
    del pieces
    holes = asyncio.create_task(heap.return_holes()) if "give back" in sys.argv else None
    for _ in range(500):
        await asyncio.sleep(0.02)
        if resident() - before < 20 << 20:
            break
        if holes is None:
            break
    print(resident() - before)

asyncio.run(main())
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="it is glibc's heap that keeps what is free")
def test_holes_between_what_is_in_use_go_back_to_the_system() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    resident = {}
    for how in ("give back", "leave"):
        done = subprocess.run([sys.executable, "-c", HOLES, how], env=environment, check=True, capture_output=True)
        resident[how] = int(done.stdout)
    assert resident["leave"] > 60 << 20  # what this is against
    assert resident["give back"] < 20 << 20


def test_every_fault_is_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "outcomes.md").read_text()
    for fault in ("SIGKILL", "half-open", "disk", "clock", "sink", "`queue_full`", "expired", "another model"):
        assert fault in page, fault
