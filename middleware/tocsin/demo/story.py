"""The demo, told in the order a user would go: record, fit, calibrate, serve, look."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from tocsin.demo.digits import Digits, Images, digits, unfamiliar_inputs
from tocsin.demo.findings import Findings
from tocsin.demo.model_server import ModelServer, Tocsin, environment, free_ports
from tocsin.demo.picture import draw
from tocsin.demo.report import print_report
from tocsin.demo.traffic import Answer, Caller, alarms
from tocsin.errors import StartError
from tocsin_calibration import Bundle

DETECTORS = ("entropy", "energy", "mahalanobis:hidden", "rnd:image")
CONFIG = """\
listen: 127.0.0.1:{relay}
upstream: 127.0.0.1:{upstream}
mode: annotate
metrics: 127.0.0.1:{metrics}
admin: null
scoring_budget: 100ms  # the model server and its caller share this machine with the relay
models:
  digits:
    bundle: digits.tocsin
    signals:
      probs: response.outputs.predict_proba
      logits: response.outputs.logits
      hidden: response.outputs.hidden
      image: request.inputs.image
"""


def run_story(work: Path, json_file: Path | None, *, keep: bool = False) -> None:
    """Run the whole demo in the folder `work`; `keep` leaves it running, with traffic, until Ctrl-C. Raises StartError
    when a part of it cannot be started.
    """
    console = Console(highlight=False)
    work.mkdir(parents=True, exist_ok=True)
    console.rule("[bold]A model server, guarded")
    python = environment(work, console)
    data = digits()
    with ExitStack() as running:
        with console.status("starting MLServer with a scikit-learn model of handwritten digits"):
            server = running.enter_context(ModelServer(python, work, data))
        relay, metrics = free_ports(2)
        config = work / "tocsin.yaml"
        config.write_text(CONFIG.format(relay=relay, upstream=server.port, metrics=metrics))
        prepare(console, work, data, relay)
        serve = ["serve", "-c", str(config)]
        _say(console, serve)
        running.enter_context(Tocsin(serve, relay, work / "serve.log"))
        findings = watch(console, work, data, server.port, relay, metrics)
        picture = work / "demo.png"
        draw(findings, picture)
        print_report(console, findings, work, picture)
        if json_file is not None:
            json_file.write_text(json.dumps(findings.as_json(), indent=1) + "\n")
        if keep:
            console.print(f"\nThe page is at [bold]http://127.0.0.1:{metrics}/[/], with traffic; Ctrl-C ends it.")
            signal.signal(signal.SIGINT, signal.default_int_handler)  # also where whoever started it ignores them
            with suppress(KeyboardInterrupt):
                send_forever(data, relay)


def prepare(console: Console, work: Path, data: Digits, relay: int) -> None:
    """Record safe traffic through the relay, fit detectors on it, and calibrate them."""
    safe = work / "safe"
    shutil.rmtree(safe, ignore_errors=True)
    config, bundle = str(work / "tocsin.yaml"), str(work / "digits.tocsin")
    record = ["record", "-c", config, "-o", str(safe), "--rows", str(len(data.record)), "--stop-when-full"]
    _say(console, record)
    with Tocsin(record, relay, work / "record.log") as recorder:
        with Caller(f"127.0.0.1:{relay}") as caller:
            for number, image in enumerate(track(data.record, "sending safe digits", console=console)):
                caller.ask(image, number)
        recorder.process.wait(30)
    _run(console, ["fit", str(safe), "-o", bundle, *(part for d in DETECTORS for part in ("-d", d))])
    _run(console, ["calibrate", bundle, str(safe), "--warning", "0.05", "--critical", "0.01"])


def watch(console: Console, work: Path, data: Digits, upstream: int, relay: int, metrics: int) -> Findings:
    """Send what is safe and what is not through the relay, each once, and compare with the server itself."""
    bundle = Bundle.read(work / "digits.tocsin")
    findings = Findings(bundle.require_promise())
    with Caller(f"127.0.0.1:{relay}") as guarded, Caller(f"127.0.0.1:{upstream}") as direct:
        batches: dict[str, Images] = {"safe": data.safe, **unfamiliar_inputs(data.safe)}
        for kind, images in batches.items():
            before = alarms(f"127.0.0.1:{metrics}")
            pairs = []
            for number, image in enumerate(track(images, f"{kind:>14}", console=console)):
                pairs.append((guarded.ask(image, number), direct.ask(image, number)))
            raised = alarms(f"127.0.0.1:{metrics}") - before
            findings.altered += sum(with_it.content != without.content for with_it, without in pairs)
            answers = [with_it for with_it, _ in pairs]
            findings.scores[kind] = bundle.scorer.run(_signals(answers, bundle))
            if kind == "safe":
                findings.safe, findings.safe_alarms = len(images), raised
                findings.added_us = 1e6 * (
                    statistics.median(a.seconds for a, _ in pairs) - statistics.median(b.seconds for _, b in pairs)
                )
            else:
                findings.strange += len(images)
                findings.kinds[kind] = raised / len(images)
    return findings


def send_forever(data: Digits, relay: int) -> None:
    """Send safe digits for ever, twenty a second."""
    with Caller(f"127.0.0.1:{relay}") as caller:
        for number, image in enumerate(itertools.cycle(data.safe)):
            caller.ask(image, number)
            time.sleep(0.05)


def _signals(answers: list[Answer], bundle: Bundle) -> dict[str, Any]:
    return {name: np.array([answer.signals[name] for answer in answers], np.float32) for name in bundle.scorer.signals}


def _say(console: Console, arguments: list[str]) -> None:
    console.print(f"[bold cyan]$[/] tocsin {shlex.join(arguments)}", soft_wrap=True)


def _run(console: Console, arguments: list[str]) -> None:
    _say(console, arguments)
    done = subprocess.run([sys.executable, "-m", "tocsin", *arguments], check=False)
    if done.returncode:
        raise StartError(f"tocsin {arguments[0]} failed")
