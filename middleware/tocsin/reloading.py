"""Configuration, bundles and certificates read anew while serving. What is broken changes nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from tocsin.configuration.config import Config
from tocsin.errors import ReloadError, StartError, TocsinError
from tocsin.judgement.guard import Guard
from tocsin.judgement.model import GuardedModel, guarded_models
from tocsin.protocols.descriptors import message_class
from tocsin.relay.server import Relay
from tocsin_calibration import CalibrationFault
from tocsin_detectors import DetectorError

log = logging.getLogger("tocsin")

SERVICE = "tocsin.v1.Admin"
ReloadRequest = message_class("admin", "tocsin.v1.ReloadRequest")
ReloadResponse = message_class("admin", "tocsin.v1.ReloadResponse")
FIXED = (
    "listen",
    "upstream",
    "tls",
    "upstream_tls",
    "listeners",
    "upstream_health",
    "metrics",
    "page",
    "events",
    "opentelemetry",
    "state",
    "admin",
    "workers",
    "max_memory",
)


class Follows(Protocol):
    """A sink that takes note of the models there are."""

    def follow(self, models: Mapping[str, GuardedModel]) -> None:
        """Take note of these from here on."""
        ...


class Reloader:
    """Reads `path` again when asked to, and puts relay, guard and sinks to work by it."""

    def __init__(self, path: Path | None, relay: Relay, guard: Guard, sinks: Sequence[Follows]) -> None:
        self._path = path
        self._relay = relay
        self._guard = guard
        self._sinks = sinks
        self._counts: Counter[str] = Counter()
        self._busy = asyncio.Lock()

    async def reload(self) -> str:
        """Read everything anew; what has changed, in words. Raises ReloadError telling what is wrong; then nothing has
        changed.
        """
        async with self._busy:
            try:
                told = await self._reload()
            except (ReloadError, StartError) as error:
                self._counts["failed"] += 1
                log.error("reloading failed, and the old configuration stays in force: %s", error)
                raise ReloadError(f"{error}") from None
            finally:
                gc.collect()  # models that were read and not kept hold much memory that the collector cannot see
            self._counts["done"] += 1
            log.info("reloaded: %s", told)
            return told

    async def _reload(self) -> str:
        if self._path is None:
            raise ReloadError("there is no file to read again")
        before, had = self._guard.config, self._guard.models
        config, models = await asyncio.to_thread(read_anew, self._path, self._guard)
        renewed = await self._relay.renew_certificates(look=True)
        for sink in self._sinks:
            sink.follow(models)
        self._guard.take(config, models)
        self._relay.follow(config)
        told = [
            f"model {name} ({model.digests[0][:19] or 'no bundle'})"
            for name, model in models.items()
            if had.get(name) is not model
        ]
        told += [f"model {name} left" for name in had if name not in models]
        told += ["certificates"] if renewed else []
        told += [f"mode {config.mode}"] if config.mode != before.mode else []
        return ", ".join(told) or "nothing has changed"

    def collect(self) -> Iterable[Metric]:
        """How often it was done."""
        reloads = CounterMetricFamily("tocsin_reloads", "Configurations read anew while serving.", labels=["outcome"])
        for outcome in ("done", "failed"):
            reloads.add_metric([outcome], self._counts[outcome])
        yield reloads


def read_anew(path: Path, guard: Guard) -> tuple[Config, dict[str, GuardedModel]]:
    """The configuration as its file says now, and its models; those that are the same stay the same objects.

    Raises ReloadError telling what is wrong, or what cannot change while serving.
    """
    try:
        config = Config.load(path)
        models = guarded_models(config, guard.state, guard.models)
    except (TocsinError, CalibrationFault, DetectorError, OSError) as error:
        raise ReloadError(f"{error}") from None
    fixed = [name for name in FIXED if getattr(config, name) != getattr(guard.config, name)]
    if fixed:
        raise ReloadError(f"{path}: {', '.join(fixed)}: cannot change while serving; restart for that")
    return config, models


def reload_handler(reload: Callable[[], Awaitable[str]]) -> Any:
    """The service tocsin.v1.Admin, as a grpc.aio server adds it."""

    async def asked(request: Any, context: Any) -> Any:
        del request
        try:
            return ReloadResponse(told=await reload())
        except ReloadError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

    method = grpc.unary_unary_rpc_method_handler(
        asked, request_deserializer=ReloadRequest.FromString, response_serializer=ReloadResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Reload": method})
