"""Claims about the end: after SIGTERM late callers are still served, unready, until the delay is over or cut short."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import SIGNALS, free_port

PATIENCE = 60


@contextmanager
def serving(folder: Path, bundle: Path, workers: int, delay: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A relay process, its port and the port of its metrics."""
    listen, metrics = free_port(), free_port()
    with model_server() as (_, address):
        config = folder / "tocsin.yaml"
        config.write_text(json.dumps({
            "listen": f"127.0.0.1:{listen}", "metrics": f"127.0.0.1:{metrics}", "admin": None, "upstream": address,
            "scoring_budget": "60s",
            "workers": workers, "drain": "5s", "drain_delay": delay,
            "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
        }))  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "tocsin", "serve", "-c", str(config)])
        try:
            answers_with(metrics, 200)
            yield process, listen, metrics
        finally:
            process.kill()
            process.wait()


def answers_with(metrics: int, status: int) -> None:
    """Wait until /readyz has this status."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        try:
            current = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/readyz", timeout=60).status
        except urllib.error.HTTPError as error:
            current = error.code
        except OSError:
            current = 0
        if current == status:
            return
        time.sleep(0.05)
    raise AssertionError(f"/readyz is {current}, not {status}")


def ask(port: int) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = channel.unary_unary("/test.Model/Unary")(b"late", timeout=60)
        return answer


@pytest.mark.parametrize("workers", [1, 2])
def test_late_callers_are_served_until_a_second_signal(bundle: Path, tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, bundle, workers, f"{10 * PATIENCE}s") as (process, port, metrics):
        os.kill(process.pid, signal.SIGTERM)
        answers_with(metrics, 503)
        assert [ask(port) for _ in range(5)] == [b"late"] * 5
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0  # long before the delay is over
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_whoever_sits_before_it_need_not_wait(bundle: Path, tmp_path: Path) -> None:
    with serving(tmp_path, bundle, 1, f"{10 * PATIENCE}s") as (process, _, _):
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def test_the_delay_ends_by_itself(bundle: Path, tmp_path: Path) -> None:
    with serving(tmp_path, bundle, 1, "200ms") as (process, _, _):
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
