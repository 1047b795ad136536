"""A guard for tests: the relay of a configuration in a thread of this process, on free ports."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from tocsin.configuration.config import Config
from tocsin.configuration.fields import Address, parse_address
from tocsin.judgement.guard import Guard
from tocsin.service import Sidecar, event_loop

Result = TypeVar("Result")

_PATIENCE = 60.0  # seconds that starting and stopping may take beyond `drain`, on a machine that is busy
_FREE = Address("127.0.0.1", 0)
_BUDGET = timedelta(seconds=60)  # so that on a busy machine no verdict is late


class ServedGuard:
    """A running relay. `target` is where a gRPC channel connects, or Envoy, where it alone is served."""

    def __init__(self, sidecar: Sidecar, loop: asyncio.AbstractEventLoop) -> None:
        self.sidecar = sidecar
        self.loop = loop
        self.target = str(sidecar.relay.address) if sidecar.relay.ports else sidecar.ext_proc_address

    @property
    def metrics(self) -> str:
        """What Prometheus would read, in its text format. Raises ValueError where `metrics` is null."""
        if self.sidecar.http is None:
            raise ValueError("the configuration says `metrics: null`: there is nothing to read")
        with urllib.request.urlopen(f"{self.sidecar.http.url}/metrics", timeout=_PATIENCE) as response:
            return str(response.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels, 0 where there are none.

        `name` as in docs/observability.md, such as `tocsin_alarms_total`; of a histogram, one with `_count` or `_sum`.
        """
        families = text_string_to_metric_families(self.metrics)
        values = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return float(sum(values))

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the relay's event loop, and wait for its result."""
        future: Future[Result] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result(_PATIENCE)


@contextmanager
def serve_guard(
    config: Config | Mapping[str, Any] | Path | str, *, upstream: str | None = None
) -> Iterator[ServedGuard]:
    """Serve a configuration, or the one of a file, on free ports of 127.0.0.1 until the block ends.

    All that the configuration says holds but what would need ports, time or processes: it listens and shows metrics on
    free ports, before `upstream` (HOST:PORT) where that is given; admin port, further listeners and workers are left
    out, responses may wait a minute for their verdicts unless `scoring_budget` says otherwise, and draining begins at
    once. Raises ConfigError, BundleError or StartError.

        >>> import grpc
        >>> import tocsin
        >>> from tocsin.testing import infer_response, serve_model
        >>> infer = "/inference.GRPCInferenceService/ModelInfer"
        >>> response = infer_response("digits", {"probs": [[0.1] * 10], "embedding": [[30.0] * 8]})
        >>> with serve_model({infer: response}) as model, serve_guard("tocsin.yaml", upstream=model.address) as guarded:
        ...     with grpc.insecure_channel(guarded.target) as channel:
        ...         _, call = channel.unary_unary(infer).with_call(b"an image", timeout=60)
        ...     alarms = guarded.metric("tocsin_alarms_total", model="digits", severity="critical")
        >>> tocsin.verdict(call).severity, alarms
        ('critical', 1.0)
    """
    if isinstance(config, (Path, str)):
        config = Config.load(config)
    elif not isinstance(config, Config):
        config = Config(**config)
    changes: dict[str, Any] = {
        "listen": _FREE,
        "listeners": [],
        "metrics": None if config.metrics is None else _FREE,
        "admin": None,
        "workers": 1,
        "drain_delay": timedelta(0),
    }
    if upstream is not None:
        changes["upstream"] = parse_address(upstream)
    if "scoring_budget" not in config.model_fields_set:
        changes["scoring_budget"] = _BUDGET
    config = config.model_copy(update=changes)
    with running(config) as served:
        yield served


@contextmanager
def running(config: Config, guard: Guard | None = None, path: Path | None = None) -> Iterator[ServedGuard]:
    """A sidecar of exactly this configuration in a thread, drained at the end.

    `guard` judges in place of the configuration's; `path` is the file that is read when it reloads.
    """
    sidecar = Sidecar(config, guard or Guard.open(config), path)
    loop = event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tocsin-testing", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(sidecar.start(), loop).result(_PATIENCE)
        try:
            yield ServedGuard(sidecar, loop)
        finally:
            stopped = asyncio.run_coroutine_threadsafe(sidecar.stop(), loop)
            stopped.result(_PATIENCE + config.drain.total_seconds())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_PATIENCE)
        loop.close()
