"""Claims about several worker processes on one port: they are one relay to callers, and one truth to Prometheus."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from benchmarks.harness.by_hand import until
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    SIGNALS,
    at_once,
    far_away,
    free_port,
    inference,
    quick_bundle,
    safe_traffic,
    settings,
)

import tocsin
from tocsin.cli.reload import reload as reload_command
from tocsin.errors import ConfigError, ReloadError
from tocsin.judgement.guard import Guard
from tocsin.recording.reading import read_recording
from tocsin.workers.supervisor import Supervisor

ANSWERS = {b"safe": inference(safe_traffic(4, seed=3), slice(0, 1)), b"far": inference(far_away(1), slice(0, 1))}


class Served:
    """`tocsin serve` with workers."""

    def __init__(self, path: Path, content: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
        self.path, self.content, self.process = path, content, process
        self.target, self.admin = content["listen"], content["admin"]

    @property
    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.content['metrics']}/metrics") as answer:
            return str(answer.read().decode())

    def metric(self, line: str) -> float:
        samples = [text for text in self.metrics.splitlines() if text.startswith(line + " ")]
        return float(samples[0].rpartition(" ")[2]) if samples else 0.0

    def sum(self, name: str) -> float:
        return sum(float(text.rpartition(" ")[2]) for text in self.metrics.splitlines() if text.startswith(name + "{"))

    @property
    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def ask(self, request: bytes) -> Any:
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        with grpc.insecure_channel(self.target, options=options) as channel:
            return channel.unary_unary(INFER).with_call(request, timeout=60)


@contextmanager
def serving(address: str, bundle: Path, folder: Path, workers: int = 2) -> Iterator[Served]:
    path = folder / "t.yaml"
    content = {
        "listen": f"127.0.0.1:{free_port()}", "upstream": address, "mode": "annotate", "workers": workers,
        "metrics": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}", "drain": "5s",
        "scoring_budget": "60s", "record": {"to": "record"},
        "models": {"digits": {"bundle": str(bundle), "signals": SIGNALS}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tocsin", "serve", "-c", str(path)], stderr=log, env=at_once()
        )
    served = Served(path, content, process)
    try:
        until(lambda: urllib.request.urlopen(f"http://{content['metrics']}/readyz").status == 200, 60)
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / "log").read_text()


def test_workers_share_the_port_and_their_metrics_are_one(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address), serving(address, bundle, tmp_path) as served:
        model.answers = ANSWERS
        assert len(served.workers) == 2 and served.metric("tocsin_workers") == 2
        used = set()
        for number in range(60):
            _, call = served.ask(b"far" if number % 6 == 0 else b"safe")
            used.add(tocsin.verdict(call).severity)
        assert used == {None, "critical"}
        until(lambda: served.sum("tocsin_responses_total") == 60)
        assert served.metric('tocsin_alarms_total{model="digits",severity="critical",version="v1"}') == 10
        assert served.metric('tocsin_pvalue_count{model="digits"}') == 60
        assert served.metric('tocsin_relay_calls_total{guarded="true"}') == 60
        assert served.metric('tocsin_promise_log_evalue{model="digits",severity="critical"}') > 4.6
        time.sleep(0.5)
        assert served.sum("tocsin_responses_total") == 60
        assert served.metric('tocsin_recording_responses{model="digits"}') == 60
    files = [path.name for path in (tmp_path / "record").iterdir()]
    assert read_recording(tmp_path / "record").rows == 60 and len(files) == 2, files


def test_a_worker_that_dies_is_started_again_and_what_it_counted_stays(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address), serving(address, bundle, tmp_path) as served:
        model.answers = ANSWERS
        for _ in range(20):
            served.ask(b"safe")
        until(lambda: served.sum("tocsin_responses_total") == 20)
        before = set(served.workers)
        os.kill(served.workers[0], signal.SIGKILL)
        until(lambda: served.metric("tocsin_worker_restarts_total") == 1 and served.metric("tocsin_workers") == 2)
        assert len(before & set(served.workers)) == 1
        assert served.sum("tocsin_responses_total") == 20
        assert served.metric('tocsin_relay_calls_total{guarded="true"}') == 20
        for _ in range(10):
            assert served.ask(b"safe")[0] == ANSWERS[b"safe"]
        until(lambda: served.sum("tocsin_responses_total") == 30)


def test_reloading_reaches_every_worker_by_signal_and_by_call(bundle: Path, tmp_path: Path) -> None:
    with model_server() as (model, address), serving(address, bundle, tmp_path) as served:
        model.answers = ANSWERS
        served.ask(b"safe")
        other = quick_bundle(tmp_path / "other.tocsin", rule="all")
        served.content["models"]["digits"]["bundle"] = "other.tocsin"
        served.path.write_text(yaml.safe_dump(served.content))
        reload_command(served.admin)
        digests = {tocsin.verdict(served.ask(b"safe")[1]).bundle for _ in range(20)}
        assert len(digests) == 1 and other.digest.startswith(digests.pop())
        assert other.digest in served.metrics
        served.path.write_text("mode: [")
        with pytest.raises(ReloadError, match="is not YAML"):
            reload_command(served.admin)
        served.process.send_signal(signal.SIGHUP)
        until(lambda: served.metric('tocsin_reloads_total{outcome="failed"}') == 2)
        assert served.ask(b"safe")[0] == ANSWERS[b"safe"]


def test_workers_are_refused_where_they_would_not_keep_the_promise(bundle: Path, tmp_path: Path) -> None:
    config = settings(1, bundle, workers=2)
    with pytest.raises(ConfigError, match="cannot be shared"):
        Supervisor(config, Guard.open(config), tmp_path)
    config = settings(1, bundle, workers=2, listen="127.0.0.1:9")
    config.models["digits"].discoveries = type(config.models["digits"])(
        signals=SIGNALS, discoveries={"method": "addis"}
    ).discoveries
    with pytest.raises(ConfigError, match=re.escape("set workers: 1")):
        Supervisor(config, Guard.open(config), tmp_path)
