"""A relay in each mode before a real gRPC server, for all cases."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from benchmarks.harness.model_server import Model
from benchmarks.harness.parts import SIGNALS, running, settings
from benchmarks.harness.raw_peers import close_clients
from tests.middleware.relay.conformance.harness import ANSWERS, MODES, Surroundings, Trial

ENFORCED = {"critical": "block", "warning": "block"}


@pytest.fixture(scope="session")
def surroundings(bundle: Path) -> Iterator[Surroundings]:
    model = Model()
    model.answers = dict(ANSWERS)
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.http2.max_ping_strikes", 0)])
    server.add_generic_rpc_handlers((model,))
    direct = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with ExitStack() as stack:
        stack.callback(lambda: server.stop(0).wait())
        relays = {}
        for mode in MODES:
            guarded = {"bundle": bundle, "signals": SIGNALS, "on_alarm": ENFORCED if mode == "enforce" else {}}
            fail = "closed" if mode == "enforce" else "open"
            config = settings(direct, bundle, mode=mode, fail=fail, drain="1s", models={"digits": guarded})
            relays[mode] = stack.enter_context(running(config))
        yield Surroundings(direct, relays)


@pytest.fixture(autouse=True)
def clients_are_closed() -> Iterator[None]:
    """A case that fails leaves nothing behind for the next."""
    yield
    close_clients()


@pytest.fixture(scope="session")
def trial(surroundings: Surroundings) -> Trial:
    return Trial(surroundings)
