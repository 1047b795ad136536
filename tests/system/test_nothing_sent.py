"""Claim: no command speaks to anybody, or writes anything, but what its words and the configuration name.

Each runs in an environment that says nothing (no CI: packages keep quiet there) with an empty home, and strace records
addresses, names that DNS is asked for, and files. ONNX Runtime's telemetry writes its files when it is imported, and
asks DNS half a minute later: `serve` runs for longer than that.
"""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, SIGNALS, TRIES_AGAIN_SOON, far_away, free_port, inference, safe_traffic
from tests import traced
from tests.traced import Traces

from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Entropy, Mahalanobis, Margin, MaxSoftmax, Observations, compile

SERVED_SECONDS = 45  # of which the telemetry's first question comes after some 30
TOCSIN = (sys.executable, "-m", "tocsin")
NAME_SERVICE = "/var/run/nscd/socket"  # glibc looks whether somebody caches names of users and hosts for it
COMMANDS = {
    "fit": "fit safe.parquet -o made.tocsin -d entropy -d mahalanobis",
    "calibrate": "calibrate m.tocsin safe.parquet -o calibrated.tocsin --warning 0.1",
    "evaluate": "evaluate m.tocsin safe.parquet --failures far.parquet --html page.html --json figures.json",
    "score": "score m.tocsin safe.parquet scores",
    "replay": "replay safe.parquet m.tocsin --html replayed.html",
    "select": "select m.tocsin safe.parquet far.parquet -o released.csv",
    "bundle show": "bundle show m.tocsin --json",
    "bundle time": "bundle time m.tocsin --rows 1",
    "config check": "config check tocsin.yaml",
    "rules": "rules -c tocsin.yaml",
    "inject": "inject deployment.yaml -c tocsin.yaml --bundles configmap:bundles",
    "dashboards": "dashboards",
    "plan retries": "plan retries --accuracy 0.7 --passes-right 0.9 --passes-wrong 0.2",
    "feedback": "feedback labels.csv --to 127.0.0.1:{admin}",
    "reload": "reload --to 127.0.0.1:{admin}",
    "top": "top --of 127.0.0.1:{metrics} --once",
    "explain": "explain {alarm} m.tocsin --of 127.0.0.1:{metrics}",
}
WRITES = {
    "fit": {"made.tocsin"},
    "calibrate": {"calibrated.tocsin"},
    "evaluate": {"page.html", "figures.json"},
    "score": {"scores"},
    "replay": {"replayed.html"},
    "select": {"released.csv"},
}
PICTURE = """
import sys
from pathlib import Path
from tocsin.demo.findings import Findings
from tocsin.demo.picture import draw
from tocsin_calibration import Bundle
from benchmarks.harness.parts import safe_traffic
bundle = Bundle.read(Path("m.tocsin"))
scores = {"safe": bundle.scorer(safe_traffic(50)), "strange": bundle.scorer(safe_traffic(50, seed=2))}
draw(Findings(bundle.promise, safe=50, kinds={"strange": 0.1}, scores=scores), Path("drawn/picture.png"))
"""


@dataclass
class Place:
    """A folder to work in, a home and a folder for temporary files that are empty, and a relay that serves."""

    folder: Path
    home: Path
    temporary: Path
    logs: Path
    ports: dict[str, int]
    log: Path
    process: subprocess.Popen[bytes]
    started: float
    alarm: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return traced.bare_environment(self.home, self.temporary)

    def run(self, name: str, *words: object) -> Traces:
        return traced.run(self.logs / name.replace(" ", "-"), *words, env=self.environment, cwd=self.folder)

    def outside(self, recorded: Traces) -> set[Path]:
        """What was written elsewhere than in the working folder and the one for temporary files."""
        inside = (self.folder, self.temporary)
        return {path for path in recorded.written if not any(path.is_relative_to(folder) for folder in inside)}

    def clear(self) -> set[str]:
        """What lies in the home and among temporary files, by name; it is removed."""
        remains = {path for folder in (self.home, self.temporary) for path in folder.iterdir()}
        for path in remains:
            shutil.rmtree(path)
        return {path.name for path in remains}


def recorded(path: Path, observations: Observations) -> None:
    signals = {f"signal.{name}": list(values) for name, values in observations.items()}
    rows = observations.rows
    times = np.datetime64("2026-11-01T00:00:00", "us") + np.arange(rows) * np.timedelta64(1, "s")
    correct = np.arange(rows) % 3 > 0
    pq.write_table(pa.table({"time": times, "model": ["digits"] * rows, "correct": correct, **signals}), path)


def prepared(folder: Path, target: str) -> dict[str, int]:
    """Everything that commands read; the ports of the relay."""
    safe = safe_traffic(900)
    scorer = compile([Entropy(), Margin(), MaxSoftmax(), Mahalanobis()], fit_on=safe.take(slice(0, 300)))
    scores = scorer(safe.take(slice(300, None)))
    promise = calibrate(scores, {"warning": 0.05, "critical": 0.01}, detectors=scorer.detectors)
    Bundle(scorer, promise, "digits").write(folder / "m.tocsin")
    recorded(folder / "safe.parquet", safe_traffic(400))
    recorded(folder / "far.parquet", far_away(40))
    ports = {name: free_port() for name in ("listen", "metrics", "admin", "webhook", "otlp")}
    config = {
        **{name: f"127.0.0.1:{ports[name]}" for name in ("listen", "metrics", "admin")},
        "upstream": target, "mode": "annotate", "drain": "1s", "drain_delay": "0s",
        "events": {"to": [{"webhook": f"http://127.0.0.1:{ports['webhook']}/"}], "spool": "spool"},
        "opentelemetry": {"endpoint": f"http://127.0.0.1:{ports['otlp']}", "traces": 1, "metrics": "1s"},
        "models": {"digits": {"bundle": "m.tocsin", "signals": SIGNALS, "adapt": {"method": "aci"}}},
    }  # fmt: skip
    (folder / "tocsin.yaml").write_text(yaml.safe_dump(config))
    port = int(target.rpartition(":")[2])
    container = {"name": "model", "image": "model:1", "ports": [{"containerPort": port}]}
    template = {"metadata": {"labels": {"app": "m"}}, "spec": {"containers": [container]}}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "m"},
        "spec": {"selector": {"matchLabels": {"app": "m"}}, "template": template},
    }  # fmt: skip
    (folder / "deployment.yaml").write_text(yaml.safe_dump(deployment))
    (folder / "labels.csv").write_text("model,id,safe\ndigits,unheard-of,true\n")
    return ports


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("nothing-sent")
    folder, home, logs = (root / name for name in ("work", "home", "logs"))
    temporary = Path(tempfile.mkdtemp(prefix="nothing-"))  # short: Ray keeps sockets in it
    for directory in (folder, home, logs, folder / "drawn"):
        directory.mkdir()
    environment = traced.bare_environment(home, temporary)
    with model_server() as (model, target):
        ports = prepared(folder, target)
        model.answers = {b"far": inference(far_away(1), slice(0, 1))}
        log = logs / "serve"
        process = subprocess.Popen(
            traced.command(log, *TOCSIN, "serve", "-c", "tocsin.yaml"), env=environment, cwd=folder
        )
        ready = Place(
            folder, home, temporary, logs, {**ports, "upstream": model_port(target)}, log, process, time.time()
        )
        try:
            with grpc.insecure_channel(f"127.0.0.1:{ports['listen']}", TRIES_AGAIN_SOON) as channel:
                channel.unary_unary(INFER)(b"far", timeout=60, wait_for_ready=True)
            with urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics']}/alarms", timeout=60) as answer:
                ready.alarm = json.loads(answer.read())[0]["id"]
            yield ready
        finally:
            traced.terminate(process)
            shutil.rmtree(temporary)


def model_port(target: str) -> int:
    return int(target.rpartition(":")[2])


def holds(place: Place, recorded: Traces, *ports: str) -> None:
    """Only these ports of this machine were spoken to, no name was asked for, and nothing was written elsewhere."""
    allowed = {("127.0.0.1", place.ports[name]) for name in ports}
    assert recorded.peers <= allowed
    assert recorded.names == set()
    assert recorded.sockets <= {NAME_SERVICE}
    assert place.outside(recorded) == set()
    assert place.clear() <= {f"torchinductor_{getpass.getuser()}"}  # empty; torch makes it when it is imported


def test_the_recorder_sees_names_addresses_and_files(place: Place) -> None:
    program = (
        "import os, pathlib, socket\n"
        "try: socket.getaddrinfo('no-such-host.invalid', 1)\n"
        "except OSError: pass\n"
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))\n"
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect_ex(('::1', 10))\n"
        "pathlib.Path('~/a').expanduser().mkdir(); pathlib.Path('~/a/b').expanduser().write_text('')\n"
        "os.rename(os.path.expanduser('~/a/b'), os.path.expanduser('~/a/c'))\n"
    )
    home = place.folder / "drawn"
    log = place.logs / "recorder"
    recorded = traced.run(log, sys.executable, "-c", program, env={**place.environment, "HOME": str(home)}, cwd=home)
    assert {("127.0.0.1", 9), ("::1", 10)} <= recorded.peers
    assert any(port == 53 for _, port in recorded.peers) and "no-such-host.invalid" in recorded.names
    assert {home / "a", home / "a" / "b", home / "a" / "c"} <= recorded.written


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_touches_what_it_is_given_alone(name: str, place: Place) -> None:
    before = set(place.folder.iterdir())
    words = COMMANDS[name].format(**place.ports, alarm=place.alarm).split()
    recorded = place.run(name, *TOCSIN, *words)
    holds(place, recorded, *(port for port in ("admin", "metrics") if f"{{{port}}}" in COMMANDS[name]))
    assert {path.name for path in set(place.folder.iterdir()) - before} == WRITES.get(name, set())


def test_recording_speaks_to_the_model_server_alone(place: Place) -> None:
    config = yaml.safe_load((place.folder / "tocsin.yaml").read_text())
    listen = free_port()
    config |= {"listen": f"127.0.0.1:{listen}", "metrics": None, "admin": None, "events": None, "opentelemetry": None}
    (place.folder / "recording.yaml").write_text(yaml.safe_dump(config))
    log = place.logs / "record"
    words = ["record", "-c", "recording.yaml", "-o", "recorded", "--rows", "3", "--stop-when-full"]
    command = traced.command(log, *TOCSIN, *words)
    with subprocess.Popen(command, env=place.environment, cwd=place.folder) as process:
        with grpc.insecure_channel(f"127.0.0.1:{listen}", TRIES_AGAIN_SOON) as channel:
            for _ in range(3):
                channel.unary_unary(INFER)(b"far", timeout=60, wait_for_ready=True)
        assert process.wait(60) == 0
    holds(place, traced.traces(log, place.folder), "upstream")


def test_the_demos_picture_keeps_its_fonts_beside_it(place: Place) -> None:
    root = Path(__file__).parents[2]
    environment = place.environment
    environment["PYTHONPATH"] = f"{environment.get('PYTHONPATH', '')}:{root}"
    recorded = traced.run(place.logs / "picture", sys.executable, "-c", PICTURE, env=environment, cwd=place.folder)
    holds(place, recorded)
    assert (place.folder / "drawn" / "picture.png").exists()


def test_ray_asks_nobody_but_what_the_docs_list(place: Place) -> None:
    recorded = place.run("ray", *TOCSIN, "score", "m.tocsin", "safe.parquet", "spread", "--on", "ray")
    own_addresses = {"127.0.0.1", "::1", *socket.gethostbyname_ex(socket.gethostname())[2]}
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect(("8.8.8.8", 53))
        own_addresses.add(probe.getsockname()[0])
    listed = {("8.8.8.8", 53), ("169.254.169.254", 80)}
    strangers = {peer for peer in recorded.peers if peer[0] not in own_addresses} - listed
    assert recorded.names <= {"metadata.google.internal"}
    assert {port for _, port in strangers} <= {53}, strangers  # of the name server that is asked for that name
    assert place.outside(recorded) <= {place.home / ".ray", place.home / ".ray" / "auth_token"}
    assert place.clear() <= {".ray", "ray"}


def test_serving_speaks_to_what_is_configured_alone(place: Place) -> None:
    time.sleep(max(0.0, place.started + SERVED_SECONDS - time.time()))
    assert place.process.poll() is None
    traced.terminate(place.process)
    holds(place, traced.traces(place.log, place.folder), "upstream", "webhook", "otlp")
