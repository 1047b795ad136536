"""What a user runs around Tocsin: Prometheus, Alertmanager, and the webhook of whoever is on call."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tocsin.demo.model_server import free_ports
from tocsin.errors import StartError

EVERY = 1  # seconds between scrapes, and between evaluations
WAITS = 120.0


class Heard(NamedTuple):
    """An alert that reached the webhook: when (time.monotonic), and what it said."""

    at: float
    name: str
    urgency: str
    summary: str


class Stack(AbstractContextManager["Stack"]):
    """All three, watching the Tocsins on these ports, until the end of the block."""

    def __init__(self, folder: Path, rules: Path, *tocsins: int, options: Sequence[str] = ()) -> None:
        for program in ("prometheus", "prometheus-alertmanager"):
            if shutil.which(program) is None:
                raise StartError(f"{program} is missing: apt-get install prometheus prometheus-alertmanager")
        self.heard: list[Heard] = []
        self._hook = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._hook.serve_forever, daemon=True).start()
        self.port, alertmanager = free_ports(2)
        hook = f"http://127.0.0.1:{self._hook.server_port}/"
        route = {"receiver": "on-call", "group_by": ["alertname", "model", "alarm"], "group_wait": "0s"}
        receivers = [{"name": "on-call", "webhook_configs": [{"url": hook, "send_resolved": False}]}]
        (folder / "alertmanager.yml").write_text(yaml.safe_dump({"route": route, "receivers": receivers}))
        scrape = {"job_name": "tocsin", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in tocsins]}]}
        content = {
            "global": {"scrape_interval": f"{EVERY}s", "evaluation_interval": f"{EVERY}s"},
            "rule_files": [str(rules)],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(content))
        self._processes = [
            _started(
                folder, "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml",
                f"--storage.path={folder}/alertmanager", f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            ),
            _started(
                folder, "prometheus", f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/prometheus", f"--web.listen-address=127.0.0.1:{self.port}", *options,
            ),
        ]  # fmt: skip
        for port in (alertmanager, self.port):
            self._until_ready(f"http://127.0.0.1:{port}/-/ready")

    def until_scraped(self) -> None:
        """Until every Tocsin was read once more. Raises StartError when one cannot be."""
        began, deadline = time.time(), time.monotonic() + WAITS
        while time.monotonic() < deadline:
            targets = self.ask("targets", state="active")["activeTargets"]
            fresh = [
                target for target in targets if target["health"] == "up" and _seconds(target["lastScrape"]) > began
            ]
            if targets and len(fresh) == len(targets):
                return
            time.sleep(0.1)
        raise StartError(f"Prometheus cannot read every Tocsin: {[target['lastError'] for target in targets]}")

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The series that an instant query returns."""
        series: list[dict[str, Any]] = self.ask("query", query=promql)["result"]
        return series

    def ask(self, what: str, **parameters: Any) -> Any:
        """What Prometheus' API v1 answers."""
        address = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(parameters, doseq=True)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return json.load(answer)["data"]

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(20)
        self._hook.shutdown()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        heard = self.heard

        class Hook(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in content["alerts"]:
                    labels, summary = alert["labels"], alert["annotations"]["summary"]
                    heard.append(Heard(time.monotonic(), labels["alertname"], labels["severity"], summary))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Hook

    def _until_ready(self, address: str) -> None:
        deadline = time.monotonic() + WAITS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(address, timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise StartError(f"{address} does not become ready")


def _seconds(stamp: str) -> float:
    """Unix time of Prometheus' RFC 3339, whose nanoseconds Python does not read."""
    return datetime.fromisoformat(re.sub(r"\.\d+", "", stamp)).timestamp()


def _started(folder: Path, program: str, *options: str) -> subprocess.Popen[bytes]:
    with (folder / f"{program}.log").open("wb") as log:
        return subprocess.Popen([program, *options], stdout=log, stderr=log)
