"""Driving a hop with h2load: latency, its tail, throughput, and the CPU that the hop used a request."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.dataplane.hops import Hop

IDLE_SECONDS, IDLE_US = 0.2, 5_000.0  # a hop that uses less CPU in this time has nothing left to do


class Shape(NamedTuple):
    """How many connections, calls at a time on each, and calls in all; so many a second where `rate` is not 0, else as
    fast as they are answered.
    """

    connections: int
    streams: int
    requests: int
    rate: float = 0.0


class Figures(NamedTuple):
    """Of one run: microseconds and requests a second."""

    latency_us: float
    p99_us: float
    requests_per_s: float
    cpu_us: float


Table = dict[str, dict[str, Figures]]  # by hop and column


Load = Callable[[Hop, str, Path, Shape], Figures]


def load(hop: Hop, path: str, request: Path, shape: Shape, *, settles: bool = False) -> Figures:
    """Drive a hop with calls of gRPC over HTTP/2. Raises SystemExit when a request fails. `settles`: the hop may still
    judge when all is answered, and is waited for.
    """
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    return _h2load(hop, path, request, shape, ["-w", "24", "-W", "24", *headers], settles=settles)


def load_json(hop: Hop, path: str, request: Path, shape: Shape) -> Figures:
    """Drive a hop with requests of JSON over HTTP/2. Raises SystemExit when a request fails."""
    return _h2load(hop, path, request, shape, ["-w", "24", "-W", "24", "-H", "content-type: application/json"])


def load_http1(hop: Hop, path: str, request: Path, shape: Shape) -> Figures:
    """Drive a hop with requests of JSON over HTTP/1.1. Raises SystemExit when a request fails."""
    return _h2load(hop, path, request, shape, ["--h1", "-H", "content-type: application/json"])


def _h2load(hop: Hop, path: str, request: Path, shape: Shape, options: list[str], *, settles: bool = False) -> Figures:
    scheme = "https" if hop.tls else "http"
    with tempfile.NamedTemporaryFile(prefix="h2load-") as log:
        before = hop.cpu_us()
        command = [
            str(shutil.which("h2load")), "-n", str(shape.requests), "-c", str(shape.connections),
            "-m", str(shape.streams), "-d", str(request), f"--log-file={log.name}", *options,
            *([f"--rps={shape.rate / shape.connections:.0f}"] if shape.rate else []),
            f"{scheme}://127.0.0.1:{hop.port}{path}",
        ]  # fmt: skip
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
        if settles:
            wait_until_idle(hop.cpu_us)
        cpu = hop.cpu_us() - before
        rows = [line.split() for line in Path(log.name).read_text().splitlines()]
    if len(rows) != shape.requests or any(row[1] != "200" for row in rows):
        raise SystemExit(f"{hop.name}: not every request succeeded:\n{output}")
    times = sorted(int(row[2]) for row in rows)
    ends = [int(row[0]) + int(row[2]) for row in rows]
    seconds = (max(ends) - min(int(row[0]) for row in rows)) / 1e6
    return Figures(
        sum(times) / len(times), times[int(len(times) * 0.99)], shape.requests / seconds, cpu / shape.requests
    )


def wait_until_idle(cpu_us: Callable[[], float]) -> None:
    """Wait until a program has nothing left to do, by the microseconds of CPU that it has used."""
    used = -IDLE_US
    while (now := cpu_us()) - used >= IDLE_US:
        used = now
        time.sleep(IDLE_SECONDS)


def medians(several: list[Figures]) -> Figures:
    """The median of each figure."""
    return Figures(*(statistics.median(column) for column in zip(*several, strict=True)))
