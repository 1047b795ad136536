"""A real Redis, that can be paused, killed and started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.parts import free_port


class RedisServer:
    """On a port of this machine; its data is gone with its process."""

    def __init__(self, port: int = 0, *options: str) -> None:
        assert shutil.which("redis-server"), "redis-server is missing: apt-get install redis-server"
        self.port = port or free_port()
        self._options = options
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def cpu(self) -> float:
        """Processor seconds it has used."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")  # for what it dumps when a test asks for that
        place = ["--dir", self._folder.name, "--port", str(self.port)]
        command = ["redis-server", *place, "--save", "", "--appendonly", "no", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._until_it_listens()

    def _until_it_listens(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("redis-server did not start")

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def redis_cluster(folder: Path) -> Iterator[str]:
    """Three nodes that share all slots; the address of one."""
    nodes = []
    for number in range(3):
        options = ["--cluster-enabled", "yes", "--cluster-config-file", f"{number}.conf", "--dir", str(folder)]
        nodes.append(RedisServer(0, *options, "--cluster-port", str(free_port())))
    try:
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        command = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        deadline = time.monotonic() + 60
        while not all(_settled(node.port) for node in nodes):
            assert time.monotonic() < deadline, "the cluster does not settle"
            time.sleep(0.05)
        yield nodes[0].url
    finally:
        for node in nodes:
            node.kill()


def _settled(port: int) -> bool:
    info = subprocess.check_output(["redis-cli", "-p", str(port), "cluster", "info"], text=True)
    return "cluster_state:ok" in info and "cluster_known_nodes:3" in info


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    server = RedisServer(0, *options)
    try:
        yield server
    finally:
        server.go_on()
        server.kill()


@contextmanager
def redis_sentinels(folder: Path) -> Iterator[tuple[RedisServer, str]]:
    """A master called `mine`, a replica of it, and two sentinels; the master, and the sentinels' address."""
    master = RedisServer()
    replica = RedisServer(0, "--replicaof", "127.0.0.1", str(master.port))
    sentinels = []
    for number in range(2):
        file = folder / f"sentinel-{number}.conf"
        file.write_text(
            f"sentinel monitor mine 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mine 500\nsentinel failover-timeout mine 3000\n"
        )
        sentinels.append(Sentinel(file))
    try:
        yield master, "redis://" + ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels) + "/0"
    finally:
        for server in (*sentinels, replica, master):
            server.kill()


class Sentinel(RedisServer):
    """Watches a master as its file says."""

    def __init__(self, file: Path) -> None:
        self._file = file
        super().__init__()

    def start(self) -> None:
        command = ["redis-server", str(self._file), "--sentinel", "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._until_it_listens()
