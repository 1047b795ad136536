"""A canary of the demo behind a real Prometheus: python -m benchmarks.alerts.canary --json FILE

Two Tocsins guard the demo's network, one as the stable version and one as the canary, which gets one response in five.
A real Prometheus scrapes both; `tocsin gate --prometheus` looks while traffic flows, and so does the query of the
template for Argo Rollouts. A good canary sees what the stable version sees; a bad one gets pictures that are no digits,
too.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import uvloop
import yaml
from rich.table import Table

from benchmarks.alerts.camera import SIGNALS, Camera, Network, request_for
from benchmarks.alerts.stack import EVERY, Stack
from benchmarks.harness.parts import INFER
from benchmarks.report import Check, arguments, console, finish
from tocsin.demo.model_server import Tocsin, free_ports
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Energy, Entropy, Mahalanobis, compile

FITTED, CALIBRATED = 1_000, 2_000
BATCH = 5  # seconds
SECONDS = 150.0  # after which an undecided gate is given up
TIMES = 4  # stable responses for each of the canary


class Case(NamedTuple):
    """A canary, by the share of its pictures that are no digits, and what must become of it."""

    name: str
    share: float
    decision: str


CASES = (Case("as good as stable", 0.0, "promote"), Case("a tenth of its traffic is strange", 0.1, "abort"))


def main() -> None:
    """Run both canaries and print the decision on each."""
    options = arguments("A canary of the demo behind a real Prometheus.")
    uvloop.install()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tocsin-canary-") as created:
        folder = Path(created)
        _bundle(folder / "digits.tocsin")
        (upstream,) = free_ports(1)
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.alerts.server", str(upstream)])
        try:
            with grpc.insecure_channel(f"127.0.0.1:{upstream}") as channel:
                grpc.channel_ready_future(channel).result(60)
            for number, case in enumerate(CASES):
                results[case.name] = rollout(case, number, folder, upstream)
        finally:
            server.kill()
    table = Table("the canary", "decision", "its responses", "stable responses", "seconds", "PromQL less gate")
    checks = []
    for case in CASES:
        row = results[case.name]
        table.add_row(case.name, row["decision"], f"{row['canary_responses']:,}", f"{row['stable_responses']:,}",
                      f"{row['seconds']:.0f}", f"{row['difference']:.1e}")  # fmt: skip
        decided = row["decision"] == case.decision
        checks.append(Check(f"{case.name}: {case.decision}", float(decided), "1", decided))
        same = row["difference"] < 1e-6
        checks.append(Check(f"{case.name}: PromQL equals the gate", row["difference"], "< 1e-6", same))
    console.print(table)
    finish(results, checks, options.json)


def _bundle(path: Path) -> None:
    """Fit and calibrate detectors on what the camera sees."""
    camera, network = Camera(seed=1), Network()
    scorer = compile([Entropy(), Energy(), Mahalanobis("hidden")], fit_on=network.observed(camera.safe(FITTED)))
    scores = scorer(network.observed(camera.safe(CALIBRATED)))
    promise = calibrate(scores, {"warning": 0.05, "critical": 0.01}, rule="any", detectors=scorer.detectors)
    Bundle(scorer, promise, "digits").write(path)


def rollout(case: Case, number: int, folder: Path, upstream: int) -> dict[str, Any]:
    """One rollout, with Tocsins and a Prometheus of its own."""
    home = folder / f"rollout-{number}"
    home.mkdir()
    (home / "rules.yaml").write_text("groups: []\n")
    relays, metrics = free_ports(2), free_ports(2)
    with ExitStack() as running:
        for relay, port in zip(relays, metrics, strict=True):
            config = home / f"{port}.yaml"
            config.write_text(yaml.safe_dump({
                "listen": f"127.0.0.1:{relay}", "upstream": f"127.0.0.1:{upstream}", "mode": "annotate",
                "metrics": f"127.0.0.1:{port}", "admin": None,
                "models": {"digits": {"bundle": "../digits.tocsin", "signals": SIGNALS}},
            }))  # fmt: skip
            running.enter_context(Tocsin(["serve", "-c", str(config)], relay, home / f"{port}.log"))
        stack = running.enter_context(Stack(home, home / "rules.yaml", *metrics))
        stack.until_scraped()
        ended = threading.Event()
        traffic = threading.Thread(target=lambda: asyncio.run(_send(relays, case, number, ended)))
        traffic.start()
        try:
            return _decided(stack, *(f'instance="127.0.0.1:{port}"' for port in metrics))
        finally:
            ended.set()
            traffic.join(60)


def _decided(stack: Stack, stable: str, canary: str) -> dict[str, Any]:
    """Look until it is decided; then look once more with the query of the template."""
    began = time.monotonic()
    matchers = ["--canary", canary, "--stable", stable, "--model", "digits", "--every", f"{BATCH}s", "--within", "1h"]
    look = [
        sys.executable,
        "-m",
        "tocsin",
        "gate",
        "--prometheus",
        f"http://127.0.0.1:{stack.port}",
        *matchers,
        "--json",
    ]
    while True:
        done = subprocess.run(look, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode not in (0, 1, 3):
            if time.monotonic() - began > SECONDS:
                raise RuntimeError(done.stderr)
            time.sleep(EVERY)  # nothing has been scraped twice yet
            continue
        facts: dict[str, Any] = json.loads(done.stdout)
        if facts["decision"] != "continue" or time.monotonic() - began > SECONDS:
            break
        time.sleep(EVERY)
    template = [sys.executable, "-m", "tocsin", "gate", "--template", "argo", *matchers]
    abort, _ = yaml.safe_load_all(subprocess.check_output(template, text=True))
    query = abort["spec"]["metrics"][0]["provider"]["prometheus"]["query"]
    seconds = time.monotonic() - began
    differences = []
    for _ in range(5):  # a batch may end between the two looks
        again = json.loads(subprocess.run(look, capture_output=True, text=True, check=False, timeout=120).stdout)
        (row,) = stack.query(query)
        differences.append(abs(float(row["value"][1]) - again["abort"]["log_evalue"]))
    return {**facts, "seconds": seconds, "difference": min(differences)}


async def _send(relays: list[int], case: Case, seed: int, ended: threading.Event) -> None:
    camera = Camera(seed + 20)
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{relays[0]}") as stable,
        grpc.aio.insecure_channel(f"127.0.0.1:{relays[1]}") as canary,
    ):
        to_stable, to_canary = stable.unary_unary(INFER), canary.unary_unary(INFER)
        while not ended.is_set():
            calls = [to_stable(request_for(picture)) for picture in camera.safe(TIMES)]
            calls += [to_canary(request_for(picture)) for picture in camera.shifted(1, case.share)]
            await asyncio.gather(*calls)
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    main()
