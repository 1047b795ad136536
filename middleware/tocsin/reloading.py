"""Reads configuration, bundles and certificates again while serving. Where something is wrong, nothing changes."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from tocsin.configuration.config import Config
from tocsin.errors import ReloadError, TocsinError
from tocsin.ext_proc.server import ExtProcServer
from tocsin.judgement.guard import Guard
from tocsin.judgement.model import GuardedModel, guarded_models
from tocsin.opinions.models import opinion_models
from tocsin.opinions.sink import OpinionSink
from tocsin.protocols.descriptors import message_class
from tocsin.relay.server import Relay
from tocsin_calibration import CalibrationFault
from tocsin_detectors import DetectorError

log = logging.getLogger("tocsin")

Anew = TypeVar("Anew")

SERVICE = "tocsin.v1.Admin"
THREAD_NAME = "tocsin-reload"  # the name of threads that read
RELOAD_TIMEOUT = 60.0  # seconds for reading everything anew; what takes longer is left to itself, and changes nothing
ReloadRequest = message_class("admin", "tocsin.v1.ReloadRequest")
ReloadResponse = message_class("admin", "tocsin.v1.ReloadResponse")
FIXED = (
    "listen",
    "upstream",
    "tls",
    "upstream_tls",
    "listeners",
    "ext_proc",
    "ext_proc_tls",
    "upstream_health",
    "metrics",
    "page",
    "events",
    "record",
    "opentelemetry",
    "state",
    "admin",
    "workers",
    "max_memory",
)


class Follows(Protocol):
    """A sink that follows which models there are."""

    def follow(self, models: Mapping[str, GuardedModel]) -> None:
        """Use these models from here on."""
        ...


class Reloader:
    """Reads `path` again on request, and reconfigures relay, external processor, guard and sinks. `promises` are those
    of opinions.
    """

    def __init__(
        self,
        path: Path | None,
        relay: Relay,
        guard: Guard,
        sinks: Sequence[Follows],
        opinions: OpinionSink,
        promises: Mapping[str, GuardedModel],
        processor: ExtProcServer | None = None,
    ) -> None:
        self._path = path
        self._relay = relay
        self._processor = processor
        self._guard = guard
        self._sinks = sinks
        self._opinions, self._promises = opinions, promises
        self._counts: Counter[str] = Counter()
        self._busy = asyncio.Lock()

    async def reload(self) -> str:
        """Read everything again, and return in words what has changed. Raises ReloadError with the reason; then nothing
        has changed. It completes even if the requester stops waiting.
        """
        return await asyncio.shield(asyncio.ensure_future(self._counted()))

    async def _counted(self) -> str:
        async with self._busy:
            try:
                summary = await self._reload()
            except Exception as error:
                self._counts["failed"] += 1
                why = in_words(error)
                log.error("reloading failed, and the old configuration stays in force: %s", why)
                raise ReloadError(why) from None
            finally:
                gc.collect()  # models that were read and not kept hold much memory that the collector cannot see
            self._counts["done"] += 1
            log.info("reloaded: %s", summary)
            return summary

    async def _reload(self) -> str:
        """Read the file and follow it everywhere, or nowhere. Returns what has changed, in words."""
        if self._path is None:
            raise ReloadError("there is no file to read again")
        before, had, promised = self._guard.config, self._guard.models, self._promises
        config, models, promises = await within_deadline(read_anew, self._path, self._guard)
        renewed = await self._relay.renew_certificates(look=True)
        if self._processor is not None:
            renewed |= await self._processor.renew_certificates(look=True)
        try:
            self._follow(config, models, promises)
        except Exception:
            self._follow(before, had, promised)
            raise
        changes = [
            f"model {name} ({model.digests[0][:19] or 'no bundle'})"
            for name, model in models.items()
            if had.get(name) is not model
        ]
        changes += [f"model {name} left" for name in had if name not in models]
        changes += ["certificates"] if renewed else []
        changes += [f"mode {config.mode}"] if config.mode != before.mode else []
        return ", ".join(changes) or "nothing has changed"

    def _follow(self, config: Config, models: Mapping[str, GuardedModel], promises: Mapping[str, GuardedModel]) -> None:
        for sink in self._sinks:
            sink.follow({**models, **promises})
        self._opinions.follow(config, models, promises)
        self._promises = promises
        self._guard.reconfigure(config, models)
        self._relay.context.follow(config)
        if self._processor is not None:
            self._processor.follow(config)

    def collect(self) -> Iterable[Metric]:
        """How many reloads there were, by outcome."""
        reloads = CounterMetricFamily(
            "tocsin_reloads", "Reloads of the configuration while serving.", labels=["outcome"]
        )
        for outcome in ("done", "failed"):
            reloads.add_metric([outcome], self._counts[outcome])
        yield reloads


def read_anew(path: Path, guard: Guard) -> tuple[Config, dict[str, GuardedModel], dict[str, GuardedModel]]:
    """The configuration as its file says now, its models, and those of opinions. Unchanged models stay the same
    objects.

    Raises ReloadError with the reason, also where a setting cannot change while serving.
    """
    try:
        config = Config.load(path)
        models = guarded_models(config, guard.state, guard.models)
        promises = opinion_models(config)
    except Exception as error:  # ONNX Runtime's own kinds, MemoryError, RecursionError, ...
        raise ReloadError(in_words(error)) from None
    fixed = [name for name in FIXED if getattr(config, name) != getattr(guard.config, name)]
    if fixed:
        raise ReloadError(f"{path}: {', '.join(fixed)}: cannot change while serving; restart for that")
    return config, models, promises


async def within_deadline(read: Callable[..., Anew], *arguments: Any) -> Anew:
    """Call `read` in a thread, and return its result. Raises what it raises, or ReloadError after DEADLINE; then
    neither the next reload nor the end of the process waits for that thread.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Anew] = loop.create_future()

    def settle(set_answer: Callable[[Any], None], what: Any) -> None:
        if not answer.done():
            set_answer(what)

    def run() -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            try:
                result = read(*arguments)
            except Exception as error:
                loop.call_soon_threadsafe(settle, answer.set_exception, error)
            else:
                loop.call_soon_threadsafe(settle, answer.set_result, result)

    threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
    try:
        return await asyncio.wait_for(answer, RELOAD_TIMEOUT)
    except TimeoutError:
        raise ReloadError(f"configuration and bundles could not be read within {RELOAD_TIMEOUT:g} s") from None


def leave_readers() -> None:
    """End the process at once if a thread still reads what nobody waits for. The interpreter's normal exit would
    interrupt ONNX Runtime and abort. Call it last.
    """
    if any(thread.name == THREAD_NAME for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def in_words(error: Exception) -> str:
    """An error's text; with its type where it is not a mistake of the user's."""
    if isinstance(error, TocsinError | CalibrationFault | DetectorError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")


def reload_handler(reload: Callable[[], Awaitable[str]]) -> Any:
    """The service tocsin.v1.Admin, as a grpc.aio server adds it."""

    async def handle(request: Any, context: Any) -> Any:
        del request
        try:
            return ReloadResponse(told=await reload())
        except ReloadError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

    method = grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=ReloadRequest.FromString, response_serializer=ReloadResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Reload": method})
