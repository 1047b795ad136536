"""What a guarded channel adds to a call, sync and aio: CPU of the process that calls, judging included."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

import tocsin
from benchmarks.compiled import environment, kinds, named
from benchmarks.dataplane.messages import PATH, request, response, traffic
from tocsin.grpc_wire.deframer import PREFIX_SIZE
from tocsin.judgement.guard import Guard
from tocsin.protocols import oip

CALLS, ROUNDS = 300, 9

Added = dict[str, dict[str, float]]  # by kind of channel: CPU of a call (us), plain and guarded, and their difference


def added(config: Path) -> Added:
    """Calls one at a time through a channel and through a guarded one, in turn, against a server in another process; in
    a process of their own for each build.
    """
    every: Added = {}
    with _server() as port:
        for compiled in kinds():
            command = [sys.executable, "-m", __name__, str(config), str(port)]
            done = subprocess.run(command, env=_environment(compiled), check=True, capture_output=True, text=True)
            every |= {named(kind, compiled): row for kind, row in json.loads(done.stdout).items()}
    return every


def _environment(compiled: bool) -> dict[str, str]:
    """Of a process that imports both what is measured and this benchmark."""
    of_build = environment(compiled)
    paths = [*filter(None, [of_build.get("PYTHONPATH")]), str(Path.cwd())]
    return {**of_build, "PYTHONPATH": os.pathsep.join(paths)}


def _sync(config: Path, port: int) -> dict[str, float]:
    calls = []
    for guard in (None, Guard.open(config)):
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        calls.append(_method(channel if guard is None else tocsin.guard_channel(channel, guard)))
    content = request()[PREFIX_SIZE:]
    pairs = [[_cpu_us(call, content) for call in calls] for _ in range(ROUNDS + 1)][1:]
    return _medians(pairs)


async def _aio(config: Path, port: int) -> dict[str, float]:
    calls = []
    for guard in (None, Guard.open(config)):
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        calls.append(_method(channel if guard is None else tocsin.guard_channel(channel, guard)))
    content = request()[PREFIX_SIZE:]
    pairs = [[await _cpu_us_aio(call, content) for call in calls] for _ in range(ROUNDS + 1)][1:]
    return _medians(pairs)


def _method(channel: Any) -> Any:
    return channel.unary_unary(PATH, None, oip.Response.FromString)


def _cpu_us(call: Callable[[bytes], Any], content: bytes) -> float:
    before = time.process_time_ns()
    for _ in range(CALLS):
        call(content)
    return (time.process_time_ns() - before) / CALLS / 1e3


async def _cpu_us_aio(call: Callable[[bytes], Awaitable[Any]], content: bytes) -> float:
    before = time.process_time_ns()
    for _ in range(CALLS):
        await call(content)
    return (time.process_time_ns() - before) / CALLS / 1e3


def _medians(pairs: list[list[float]]) -> dict[str, float]:
    return {
        "plain": statistics.median(plain for plain, _ in pairs),
        "guarded": statistics.median(guarded for _, guarded in pairs),
        "added": statistics.median(guarded - plain for plain, guarded in pairs),
    }


@contextmanager
def _server() -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.dataplane.channels"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


class _Answering(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every method answers with one inference."""

    def __init__(self) -> None:
        content = response(traffic(1_000), 0)
        self._handler = grpc.unary_unary_rpc_method_handler(lambda message, context: content)

    def service(self, details: Any) -> Any:
        del details
        return self._handler


def serve() -> None:
    """Serve until killed; the port is printed."""
    from concurrent import futures

    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[_Answering()])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        config, port = Path(sys.argv[1]), int(sys.argv[2])
        print(json.dumps({"sync": _sync(config, port), "aio": asyncio.run(_aio(config, port))}))
    else:
        serve()
