"""Which alerts reach somebody, after how many responses and seconds: safe traffic, then shifted.

Real traffic goes through the relay to the demo's network; a real Prometheus scrapes it, evaluates what `tocsin rules`
wrote, and tells a real Alertmanager, which calls a webhook.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import uvloop
import yaml
from rich.table import Table

from benchmarks.alerts.camera import SIGNALS, Camera, Network, request_for
from benchmarks.alerts.stack import EVERY, Stack
from benchmarks.harness.parts import INFER
from benchmarks.report import Check, at_most, console, finish
from benchmarks.report import arguments as command_line
from tocsin.demo.model_server import Tocsin, free_ports
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Detector, Energy, Entropy, Mahalanobis, RandomNetworkDistillation, compile

FITTED, CALIBRATED = 1_000, 2_000
AT_ONCE = 32  # calls under way where the rate is free


class Part(NamedTuple):
    """One run: so much safe traffic, then a share of it shifted, at so many responses a second."""

    name: str
    safe: int
    share: float
    shifted: int
    rate: float
    within: int  # responses after the shift in which somebody must be paged


def main() -> None:
    options = command_line(__doc__ or "", safe={"type": int, "default": 200_000, "help": "responses of the long calm"})
    uvloop.install()
    with tempfile.TemporaryDirectory(prefix="tocsin-alerts-") as created:
        folder = Path(created)
        bundle(folder / "digits.tocsin")
        (upstream,) = free_ports(1)
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.alerts.server", str(upstream)])
        try:
            parts = [
                Part("5% after a short calm", 2_000, 0.05, 3_000, 100, 1_000),
                Part("100% after a short calm", 2_000, 1.0, 200, 20, 60),
                Part("100% after the long calm", options.safe, 1.0, 200, 20, 60),
                Part("5% after the long calm", options.safe, 0.05, 3_000, 100, 1_000),
            ]
            rows = {part.name: run(part, number, folder, upstream) for number, part in enumerate(parts)}
        finally:
            server.kill()
    tell(rows)
    finish(rows, checks(parts, rows), options.json)


def bundle(path: Path) -> None:
    """Fit and calibrate the demo's detectors on what the camera sees."""
    camera, network = Camera(seed=1), Network()
    detectors: list[Detector] = [Entropy(), Energy(), Mahalanobis("hidden"), RandomNetworkDistillation("image")]
    scorer = compile(detectors, fit_on=network.observed(camera.safe(FITTED)))
    scores = scorer(network.observed(camera.safe(CALIBRATED)))
    promise = calibrate(scores, {"warning": 0.05, "critical": 0.01}, rule="any", detectors=scorer.detectors)
    Bundle(scorer, promise, "digits").write(path)


def run(part: Part, seed: int, folder: Path, upstream: int) -> dict[str, Any]:
    """Run one part with its own Tocsin and Prometheus."""
    directory = folder / f"run-{seed}"
    directory.mkdir()
    relay, metrics = free_ports(2)
    model = {"bundle": "../digits.tocsin", "signals": SIGNALS}
    config = directory / "tocsin.yaml"
    config.write_text(yaml.safe_dump({
        "listen": f"127.0.0.1:{relay}", "upstream": f"127.0.0.1:{upstream}", "mode": "annotate",
        "metrics": f"127.0.0.1:{metrics}", "admin": None, "models": {"digits": model},
    }))  # fmt: skip
    rules = directory / "rules.yaml"
    rules.write_bytes(subprocess.check_output([sys.executable, "-m", "tocsin", "rules", "-c", str(config)]))
    with (
        Tocsin(["serve", "-c", str(config)], relay, directory / "tocsin.log"),
        Stack(directory, rules, metrics) as stack,
    ):
        return asyncio.run(traffic(part, Camera(seed + 10), f"127.0.0.1:{relay}", stack))


async def traffic(part: Part, camera: Camera, target: str, stack: Stack) -> dict[str, Any]:
    """Send the traffic of a part, and record which notifications Alertmanager's receiver gets."""
    async with grpc.aio.insecure_channel(target) as channel:
        ask = channel.unary_unary(INFER)
        await channel.channel_ready()
        await asyncio.sleep(2 * EVERY)  # counters have been seen at nothing
        began = time.monotonic()
        for start in range(0, part.safe, 1_000):
            pictures = iter(camera.safe(min(1_000, part.safe - start)))
            await asyncio.gather(*(_several(ask, pictures) for _ in range(AT_ONCE)))
        calm = time.monotonic() - began
        await asyncio.sleep(5 * EVERY)
        (rate,) = [
            row["value"][1]
            for row in stack.query("""
            sum(tocsin_alarms_total) / sum(tocsin_responses_total{decision!="unscored"})""")
        ]
        before = list(stack.heard)
        console.print(f"{part.name}: {part.safe:,} safe responses in {calm:.0f} s, {float(rate):.2%} alarmed; shifting")
        sent: list[float] = []
        shifted = time.monotonic()
        waiting = set()
        for number, picture in enumerate(camera.shifted(part.shifted, part.share)):
            await asyncio.sleep(max(0.0, shifted + number / part.rate - time.monotonic()))
            sent.append(time.monotonic())
            waiting.add(asyncio.ensure_future(ask(request_for(picture))))
            waiting = {call for call in waiting if not call.done()}
            if any(alert.urgency == "critical" for alert in stack.heard[len(before) :]):
                break
        await asyncio.gather(*waiting)
    after = stack.heard[len(before) :]
    pages = [alert for alert in after if alert.urgency == "critical"]
    return {
        "safe": part.safe,
        "safe_alarmed": float(rate),
        "safe_heard": [alert.name for alert in before],
        "safe_paged": sum(alert.urgency == "critical" for alert in before),
        "rate": part.rate,
        "responses": sum(at < pages[0].at for at in sent) if pages else None,
        "seconds": pages[0].at - shifted if pages else None,
        "page": pages[0].summary if pages else None,
        "heard": [alert.name for alert in after],
    }


async def _several(ask: Any, pictures: Any) -> None:
    for picture in pictures:
        await ask(request_for(picture))


def tell(rows: dict[str, dict[str, Any]]) -> None:
    table = Table("run", "safe", "alarmed", "paged", "shifted, a second", "responses", "seconds", "first page",
                  title=f"Alerts, scraped and evaluated every {EVERY} s")  # fmt: skip
    for name, row in rows.items():
        delay = ["none"] * 2 if row["seconds"] is None else [str(row["responses"]), f"{row['seconds']:.1f}"]
        safe = f"{row['safe']:,}", f"{row['safe_alarmed']:.2%}", str(row["safe_paged"])
        table.add_row(name, *safe, f"{row['rate']:g}", *delay, row["page"] or "")
    console.print(table)


def checks(parts: list[Part], rows: dict[str, dict[str, Any]]) -> list[Check]:
    results = []
    for part in parts:
        row = rows[part.name]
        results.append(at_most(f"{part.name}: pages on {part.safe:,} safe responses", row["safe_paged"], 0))
        responses = row["responses"] if row["responses"] is not None else float("inf")
        results.append(at_most(f"{part.name}: responses until somebody is paged", responses, part.within))
    return results


if __name__ == "__main__":
    main()
