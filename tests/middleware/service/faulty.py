"""A relay in front of a model server that answers well, for tests that break one of the parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import (
    INFER,
    Running,
    far_away,
    inference,
    running,
    safe_traffic,
    settings,
)

from tocsin.judgement.guard import Guard

SAFE = safe_traffic(8, seed=3)
ANSWER = inference(SAFE, slice(0, 1))


@contextmanager
def served(bundle: Path, guard: Guard | None = None, **more: Any) -> Iterator[Running]:
    with model_server() as (model, address):
        model.answers = {b"safe": ANSWER, b"far": inference(far_away(1), slice(0, 1))}
        config = settings(address, bundle, **{"mode": "enforce", **more})
        if guard is not None:
            guard.reconfigure(config, guard.models)
        with running(config, guard) as relay:
            yield relay


def outcome(relay: Running, request: bytes = b"safe", **more: Any) -> Any:
    with grpc.insecure_channel(relay.target) as channel:
        try:
            return channel.unary_unary(INFER)(request, timeout=60, **more)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]
