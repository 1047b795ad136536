"""Parts that tests and benchmarks are made of: a bundle of the quick kind, inference messages, and configurations."""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tocsin.configuration.config import Config
from tocsin.judgement.guard import Guard
from tocsin.judgement.sink import Sink
from tocsin.protocols import oip
from tocsin.protocols.protocol import preset
from tocsin.testing.guards import ServedGuard
from tocsin.testing.guards import running as running
from tocsin_calibration import Bundle, calibrate
from tocsin_detectors import Entropy, Mahalanobis, Observations, Scorer, compile

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
METHOD = preset("oip")[INFER]
Running = ServedGuard
SIGNALS = {"probs": "response.outputs.probs", "embedding": "response.outputs.embedding"}
# Options of a channel to a server that is about to start; gRPC itself tries again after a second, then ever later.
PORTS = 500  # a block of them, for one process
TRIES_AGAIN_SOON = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 250)]


def safe_traffic(rows: int, seed: int = 0) -> Observations:
    """Ten probabilities and an 8-dimensional embedding a response."""
    random = np.random.default_rng(seed)
    probs = random.dirichlet(np.full(10, 0.3), rows)
    return Observations({"probs": probs, "embedding": random.normal(size=(rows, 8))})


def quick_bundle(path: Path, *, model: str = "digits", rule: str = "any") -> Bundle:
    """Entropy and Mahalanobis, calibrated on 600 responses: made in milliseconds."""
    safe = safe_traffic(900)
    scorer = compile([Entropy(), Mahalanobis()], fit_on=safe.take(slice(0, 300)))
    promise = calibrate(
        scorer(safe.take(slice(300, None))),
        {"warning": 0.05, "critical": 0.01},
        rule=rule,
        detectors=scorer.detectors,
    )
    return Bundle(scorer, promise, model).write(path)


def inference(observations: Observations, rows: slice, *, model: str = "digits", raw: bool = True) -> bytes:
    """A ModelInferResponse that shows these rows."""
    message = oip.Response(model_name=model, model_version="v1", id="42")
    for name, values in observations.items():
        tensor = message.outputs.add(name=name, datatype="FP32")
        tensor.shape.extend(values[rows].shape)
        if raw:
            message.raw_output_contents.append(values[rows].tobytes())
        else:
            tensor.contents.fp32_contents.extend(values[rows].ravel().tolist())
    return bytes(message.SerializeToString())


def streamed(content: bytes) -> bytes:
    """A ModelStreamInferResponse around a ModelInferResponse."""
    return bytes(oip.StreamEnvelope(infer_response=content).SerializeToString())


def far_away(rows: int) -> Observations:
    """Responses that no promise covers: undecided, and far from every safe embedding."""
    return Observations({"probs": np.full((rows, 10), 0.1), "embedding": np.full((rows, 8), 30.0)})


def free_port() -> int:
    """A port that is free now, and that no outgoing connection and no other process that asks here is given."""
    for port in _next_ports():
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


@cache
def _next_ports() -> Iterator[int]:
    """Ports below those that outgoing connections are given (32768 and up), of a block that is this process's own: it
    holds a lock until it ends.
    """
    for first in range(12_000, 32_000, PORTS):
        with suppress(OSError):
            claim = os.open(Path(tempfile.gettempdir()) / f"tocsin-ports-{first}", os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(claim)
                raise
            start = os.getpid() % PORTS  # not those that the last process has just left
            return itertools.cycle([first + (start + n) % PORTS for n in range(PORTS)])
    raise RuntimeError("every block of ports is taken: fewer processes of tests and benchmarks at once")


def settings(upstream: int | str, bundle: Path | None, **more: Any) -> Config:
    """A configuration on ports that the system chooses."""
    model: dict[str, Any] = {"signals": SIGNALS, "session": "metadata.x-session"}
    if bundle is not None:
        model["bundle"] = bundle
    address = upstream if isinstance(upstream, str) else f"127.0.0.1:{upstream}"
    content: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "upstream": address,
        "mode": "annotate",
        "metrics": "127.0.0.1:0",
        "admin": None,
        "drain": "5s",
        "scoring_budget": "60s",  # on a busy machine nothing is late but what is meant to be
        "models": {"digits": model},
    }
    return Config(**{**content, **more})


def at_once() -> dict[str, str]:
    """The environment of a `tocsin serve` that nothing balances load to: at SIGTERM it drains without delay."""
    return {**os.environ, "TOCSIN_DRAIN_DELAY": "0s"}


def inline_guard(config: Config, sinks: Sequence[Sink] = ()) -> Guard:
    """A guard that judges within the event loop, also on a machine too busy to find a bundle light enough for that, or
    to come to it before a scoring budget is spent that nobody has set.
    """
    if "scoring_budget" not in config.model_fields_set:
        config = config.model_copy(update={"scoring_budget": timedelta(seconds=60)})
    guard = Guard.open(config, sinks)
    guard.is_blocking = False
    return guard


def hold_scores(guard: Guard, model: str = "digits") -> threading.Event:
    """Have a model's scores wait, in a thread, for the event that this returns: until then verdicts are late."""
    guard.is_blocking = True
    goes_on = threading.Event()
    scoring = guard.models[model].scoring
    assert scoring is not None, "a model without a bundle scores nothing"
    scorer = scoring.scorer
    run = scorer.run

    def hang(signals: Any) -> Any:
        goes_on.wait(120)  # longer than any call of a test waits for its answer
        return run(signals)

    score_by(scorer, hang)
    return goes_on


def score_by(scorer: Scorer, run: Any) -> None:
    """Have a scorer's rows scored by `run`, few as many."""
    scorer.run = run  # type: ignore[method-assign]
    scorer.native = lambda rows, widths: None  # type: ignore[method-assign]
