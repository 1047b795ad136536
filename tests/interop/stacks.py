"""The gRPC implementations that are tried: what they need, how they are built, and their programs while they run."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
BUILD = Path(__file__).parents[2] / "build" / "interop"
GO_PATH = Path("/usr/share/gocode")
NODE_MODULES = BUILD / "node" / "node_modules"  # by `make interop`
JARS = Path("/usr/share/java")
JAVA_NEEDS = (
    "grpc-api", "grpc-context", "grpc-core", "grpc-netty", "grpc-stub", "gson", "guava", "netty-buffer", "netty-codec",
    "netty-codec-http", "netty-codec-http2", "netty-common", "netty-handler", "netty-handler-proxy", "netty-resolver",
    "netty-transport", "opencensus-api", "perfmark-api",
)  # fmt: skip
PATIENCE = 240.0  # seconds that a scenario may take before its client counts as hanging


def missing(stack: str) -> str:
    """What this stack lacks on this machine and how to get it; empty when it can run."""
    if stack == "go":
        if shutil.which("go") and (GO_PATH / "src/google.golang.org/grpc").is_dir():
            return ""
        return "Go and grpc-go: apt-get install golang-go golang-google-grpc-dev golang-goprotobuf-dev"
    if stack in ("node", "http2"):
        if not shutil.which("node"):
            return "Node: apt-get install nodejs npm"
        if stack == "node" and not (NODE_MODULES / "@grpc/grpc-js").is_dir():
            return "@grpc/grpc-js: npm install --prefix build/interop/node @grpc/grpc-js"
        return ""
    if stack == "java":
        lacking = [name for name in JAVA_NEEDS if not (JARS / f"{name}.jar").exists()]
        if shutil.which("javac") and not lacking:
            return ""
        return (
            "Java and grpc-java: apt-get install default-jdk-headless libgrpc-java libgoogle-gson-java libperfmark-java"
        )
    return ""


@cache
def command(stack: str) -> list[str]:
    """How the peer of a stack is called; it is built where that is needed. Raises CalledProcessError."""
    BUILD.mkdir(parents=True, exist_ok=True)
    if stack == "go":
        program = BUILD / "go-peer"
        build = {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOFLAGS": ""}
        _run(["go", "build", "-o", str(program), "."], PEERS / "go", build)
        return [str(program)]
    if stack == "java":
        classpath = ":".join(str(JARS / f"{name}.jar") for name in JAVA_NEEDS)
        classes = BUILD / "java"
        _run(["javac", "-d", str(classes), "-cp", classpath, *map(str, (PEERS / "java").glob("*.java"))], PEERS)
        return ["java", "-Xmx1g", "-cp", f"{classpath}:{classes}", "Peer"]
    if stack in ("node", "http2"):
        return ["node", str(PEERS / "node" / "peer.js"), "grpc" if stack == "node" else "http2"]
    return [sys.executable, str(PEERS / "core" / "peer.py")]


def _run(arguments: Sequence[str], folder: Path, more: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(arguments, cwd=folder, env={**os.environ, **(more or {})}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")


class Peer:
    """A running program of a stack, as a client or as a server."""

    def __init__(self, stack: str, role: str, messages: Path) -> None:
        self.name = f"{stack} {role}"
        environment = {**os.environ, "NODE_PATH": str(NODE_MODULES), "GRPC_VERBOSITY": "NONE"}
        self._log = (messages / f"{stack}-{role}.log").open("w+")
        self._process = subprocess.Popen(
            [*command(stack), role, str(messages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(self.line(60)["port"]) if role == "server" else 0

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def ask(self, scenario: dict[str, Any]) -> dict[str, Any]:
        """What a client observes of a scenario. Raises TimeoutError, and ends the client, when it says nothing."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(scenario) + "\n")
        self._process.stdin.flush()
        return self.line(PATIENCE)

    def line(self, patience: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            line = ""
        if not line:
            self.close()
            self._log.seek(0)
            raise TimeoutError(f"the {self.name} said nothing for {patience} s, or ended: {self._log.read()[-2000:]}")
        content: dict[str, Any] = json.loads(line)
        return content

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def close(self) -> None:
        if self.is_running:
            self._process.kill()
        self._process.wait()
