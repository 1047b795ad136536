"""Where an attack takes place: a relay, an ordinary caller and its model server, and another one that is attacked.

Each is a process of its own; the ordinary caller's model server has nothing else to do, so that what it waits for is
the relay.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.harness.certificates import Authority
from benchmarks.harness.chat import each_token_bundle
from benchmarks.harness.parts import SIGNALS, free_port, quick_bundle
from benchmarks.harness.raw_peers import RawPeer, ScriptedUpstream, close_clients, connect
from benchmarks.harness.served import in_sessions
from tocsin_calibration import Window

PEACE, AFTER = 1.5, 1.5  # seconds without an attack, before and after it
LASTS = 2.0  # seconds that an attack stands at least, with what it has opened
DESCRIPTORS = 1_024  # that a relay may have open


class Call(NamedTuple):
    """A call of the ordinary caller: when it began, its seconds, whether on a new connection, and what was wrong."""

    began: float
    seconds: float
    is_new: bool
    wrong: str


class Ground:
    """One relay under attack. `calls` are those of the ordinary caller so far."""

    def __init__(self, folder: Path, mode: str, options: dict[str, Any]) -> None:
        self.mode = mode
        self.calls: list[Call] = []
        self.leaks: list[str] = []  # what attackers were given unjudged
        self.evil = ScriptedUpstream()
        self._held: list[socket.socket] = []
        self._processes: list[subprocess.Popen[Any]] = []
        upstream, busy, over_http, *ports = [free_port() for _ in range(11)]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        self.target, self.attacked, self.tls, self.to_evil, self.metrics, self.admin, *others = addresses
        self.http, self.processor = others
        self._http_upstream = f"127.0.0.1:{over_http}"
        servers = [upstream, busy]
        giant = ["giant"] if options.pop("giant", False) else []
        self._log = (folder / "siege.log").open("ab")
        self._start(["benchmarks.siege.server", str(upstream)], subprocess.DEVNULL)
        self._start(["benchmarks.siege.server", str(busy), *giant], subprocess.DEVNULL, politeness=10)
        if options.get("http"):
            servers.append(over_http)
            self._start(["benchmarks.siege.http_server", str(over_http)], subprocess.DEVNULL, politeness=10)
        config = self._config(folder, upstream, busy, options)
        file = folder / "siege.yaml"
        file.write_text(yaml.safe_dump(config))
        self.max_memory = int(config["max_memory"].removesuffix("MiB"))
        self.relay = self._start(["tocsin", "serve", "-c", str(file)], subprocess.DEVNULL, limited=True)
        for port in servers:
            self._wait(f"127.0.0.1:{port}")
        caller = self._start(["benchmarks.siege.caller", self.target, mode], subprocess.PIPE)
        threading.Thread(target=self._listen, args=(caller,), daemon=True).start()

    def _config(self, folder: Path, upstream: int, busy: int, options: dict[str, Any]) -> dict[str, Any]:
        bundle = folder / "siege.tocsin"
        signals, session = dict(SIGNALS), {}
        if options.pop("sessions", False):
            bundle = folder / "sessions.tocsin"
            if not bundle.exists():
                in_sessions(bundle, window=Window(3), style="max")
            session = {"session": "metadata.x-session"}
        else:
            if not bundle.exists():
                quick_bundle(bundle)
        signals.update(options.pop("signals", {}))
        cert, key = folder / "tls" / "siege.pem", folder / "tls" / "siege.key"
        if not cert.exists():
            Authority(folder / "tls").sign("siege")
        model = {"bundle": str(bundle), "signals": signals, **session}
        if self.mode == "enforce":
            model["on_alarm"] = {"critical": "block", "warning": "flag"}
        over_http = options.pop("http", False)
        config = {
            "listen": self.target, "upstream": f"127.0.0.1:{upstream}", "mode": self.mode, "metrics": self.metrics,
            "fail": "closed" if self.mode == "enforce" else "open", "admin": self.admin, "max_memory": "32MiB",
            "listeners": [
                {"listen": self.attacked, "upstream": f"127.0.0.1:{busy}"},
                {"listen": self.tls, "upstream": f"127.0.0.1:{upstream}",
                 "tls": {"certificate": str(cert), "key": str(key)}},
                {"listen": self.to_evil, "upstream": f"127.0.0.1:{self.evil.port}"},
            ],
            "models": {"digits": model}, **options,
        }  # fmt: skip
        return self._over_http(folder, config) if over_http else config

    def _over_http(self, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        """With a model that is asked over HTTP: by the relay, and by Envoy. What it is asked waits to be changed."""
        tokens = folder / "tokens.tocsin"
        if not tokens.exists():
            each_token_bundle(tokens)
        chat: dict[str, Any] = {"protocol": "openai", "bundle": str(tokens), "session": "stream", "ask": 2}
        if self.mode == "enforce":
            chat["on_alarm"] = {"warning": "block"}
        listener = {"listen": self.http, "upstream": self._http_upstream, "model": "m"}
        return config | {
            "ext_proc": self.processor,
            "listeners": [*config["listeners"], listener],
            "models": {**config["models"], "m": chat},
        }

    def _start(
        self, module: list[str], out: int, *, limited: bool = False, politeness: int = 0
    ) -> subprocess.Popen[str]:
        def limit() -> None:
            os.nice(politeness)
            if limited:
                resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

        process = subprocess.Popen(
            [sys.executable, "-m", *module], stdout=out, stderr=self._log, text=True,
            preexec_fn=limit,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def _wait(self, target: str) -> None:
        host, port = target.split(":")
        for _ in range(600):
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"nothing listens on {target}; see {self._log.name}")

    def _listen(self, caller: subprocess.Popen[str]) -> None:
        assert caller.stdout is not None
        for line in caller.stdout:
            self.calls.append(Call(*json.loads(line)))

    # -- for attacks

    def open(self, target: str = "", first: bytes | None = None, *, reads: bool = True) -> RawPeer:
        """A client of the relay."""
        return connect(target or self.attacked, first, reads=reads, receive_buffer=0 if reads else 4_096)

    def dial(self, target: str, first: bytes = b"") -> None:
        """Open a connection that sends `first` and nothing else."""
        host, port = target.split(":")
        try:
            connection = socket.create_connection((host, int(port)), 2)
            connection.sendall(first)
        except OSError:
            return
        self._held.append(connection)

    def call(self, first: bytes, *, reads: bool = True, receive_buffer: int = 4_096) -> socket.socket:
        """A caller over HTTP/1.1, that has sent this; one that does not read has a small buffer for what comes."""
        caller = socket.socket()
        if receive_buffer and not reads:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        caller.settimeout(2)
        host, port = self.http.split(":")
        with suppress(OSError):
            caller.connect((host, int(port)))
            caller.sendall(first)
        self._held.append(caller)
        return caller

    # -- what it costs

    def at_rest(self) -> float:
        """MiB that are resident now; from here on the most is measured anew."""
        Path(f"/proc/{self.relay.pid}/clear_refs").write_text("5")
        return self._status("VmRSS") / 1024

    def most(self) -> float:
        """The most MiB that were resident since `at_rest`."""
        return self._status("VmHWM") / 1024

    def threads(self) -> int:
        """Threads of the relay."""
        return self._status("Threads")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.relay.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    def counted(self) -> dict[str, float]:
        """What the relay has refused or not understood, by the lines of its metrics that are not 0."""
        try:
            with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        counters = ("unscored", "relay_kept", "relay_limited", "relay_not_understood", "ext_proc_limited",
                    "ext_proc_not_understood")  # fmt: skip
        names = tuple(f"tocsin_{name}" for name in counters)
        counts = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(names)}
        return {name: value for name, value in counts.items() if value and "_created" not in name}

    def median(self, since: float, until: float) -> float:
        """Milliseconds of the ordinary caller's calls on its own connection, that began within this time."""
        durations = [call.seconds for call in self.calls if since <= call.began <= until and not call.is_new]
        return statistics.median(durations) * 1e3 if durations else float("inf")

    def settle(self, until: float) -> None:
        """Wait for the call that was under way at a time."""
        ends = time.monotonic() + 12.0
        while (not self.calls or self.calls[-1].began <= until) and time.monotonic() < ends:
            time.sleep(0.05)

    def release(self) -> None:
        """Close what the attack has opened."""
        close_clients()
        self.evil.close()
        for held in self._held:
            held.close()
        self._held.clear()

    def end(self) -> None:
        """End every process, and close what was opened."""
        self.release()
        for process in reversed(self._processes):
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._log.close()


def descriptors() -> None:
    """Raise this process's limit of open files to what the attacks need."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
