"""A running sidecar: relay, external processor, metrics and health, from start to the end of draining."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector

from tocsin.admin import AdminServer
from tocsin.configuration.config import Config
from tocsin.errors import ReloadError
from tocsin.ext_proc.server import ExtProcServer
from tocsin.feedback import FeedbackService
from tocsin.heap import return_holes, return_large_blocks
from tocsin.http_relay.server import HttpRelay
from tocsin.judgement.guard import Guard
from tocsin.observability import HttpEndpoint, open_endpoint
from tocsin.opinions.models import opinion_models
from tocsin.opinions.sink import OpinionSink
from tocsin.recording.sampling import SampleSink
from tocsin.relay.descriptors import raise_limit
from tocsin.relay.server import Relay
from tocsin.reloading import Follows, Reloader, leave_readers, reload_handler
from tocsin.sinks.events import EventSink
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.telemetry.sending import Telemetry

log = logging.getLogger("tocsin")

GC_THRESHOLDS = 50_000, 20, 100  # how often garbage is looked for, by generation


class Sidecar:
    """Everything that `tocsin serve` and `tocsin record` run.

    `guard` judges (or records); sinks are added for the consumers of verdicts. `path` is the configuration's file,
    which a reload reads again. A `worker` shares its ports with others, and leaves metrics and health to the
    supervisor. Raises StartError from `start`.
    """

    def __init__(self, config: Config, guard: Guard, path: Path | None = None, *, worker: bool = False) -> None:
        self.config = config
        promises = opinion_models(guard.config)
        counted = {**guard.models, **promises}
        self.metrics = PrometheusSink(counted, sends_counts=worker)
        repeat = 0.0 if config.events is None else config.events.repeat.total_seconds()
        self.events = EventSink(
            counted,
            config.events,
            guard.state.once(repeat),
            finding=self.metrics.finding,
            findings=self.metrics.findings,
        )
        guard.sinks += [self.metrics] if worker or exports_counts(config) else []
        guard.sinks += [self.events] if worker or exports_counts(config) or config.events is not None else []
        self.sample = SampleSink(counted, config.record, config.workers) if config.record is not None else None
        guard.sinks += [self.sample] if self.sample is not None else []
        self.opinions = OpinionSink(guard.config, guard.models, promises, guard.sinks)
        guard.sinks += [self.opinions]
        guard.lottery = self.opinions.lottery
        self.relay = Relay(config, guard, self.metrics.added, shares_port=worker, http=HttpRelay)
        samples = [self.sample] if self.sample is not None else []
        self.processor: ExtProcServer | None = None
        if config.ext_proc is not None:
            self.processor = ExtProcServer(
                config,
                guard,
                self.relay.context.memory,
                self.relay.context.descriptors,
                self.metrics.added,
                lambda: self.is_ready,
                shares_port=worker,
            )
        follows: list[Follows] = [self.metrics, self.events, *samples]
        self.reloader = Reloader(path, self.relay, guard, follows, self.opinions, promises, self.processor)
        self._rest = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._rest)
        collectors: list[Collector] = [self.relay, self.reloader, self.events, guard.state, self.opinions, *samples]
        for collector in collectors:
            self._rest.register(collector)
        if self.processor is not None:
            self._rest.register(self.processor)
        self.telemetry: Telemetry | None = None
        if config.opentelemetry is not None:
            self.telemetry = Telemetry(config.opentelemetry)
            self.telemetry.trace(guard, self.metrics.finding)
            self._rest.register(self.telemetry)
        self._feedback = FeedbackService(guard)
        self._worker = worker
        self._admin: AdminServer | None = None
        self.http: HttpEndpoint | None = None
        self._opened = AsyncExitStack()
        self._ready = False

    @property
    def admin_address(self) -> str:
        """The address of the admin port, "" where there is none."""
        return str(self._admin.address) if self._admin is not None else ""

    @property
    def ext_proc_address(self) -> str:
        """The address for Envoy's filter, "" where none is served."""
        return str(self.processor.address) if self.processor is not None else ""

    @property
    def ways(self) -> str:
        """In words: where responses come from, and where callers or Envoy connect."""
        ways = [f"{port.address} -> {port.listener.upstream}" for port in self.relay.ports[:1]]
        return ", ".join([*ways, *([f"ext_proc on {self.ext_proc_address}"] if self.processor is not None else [])])

    @property
    def calls(self) -> list[int]:
        """How many calls have begun, unguarded and guarded, over all ports."""
        of_envoy = self.processor.context.exchanges if self.processor is not None else [0, 0]
        return [count + more for count, more in zip(self.relay.context.calls, of_envoy, strict=True)]

    @property
    def is_ready(self) -> bool:
        """Whether new calls are accepted."""
        return self._ready and not any(self.relay.unready.values())

    async def start(self) -> None:
        """Listen on all addresses, or, when one is not available, on none."""
        async with AsyncExitStack() as opened:
            if not self._worker:
                self.http = open_endpoint(
                    self.config,
                    self.metrics,
                    self._rest,
                    self.events.latest,
                    is_ready=lambda: self.is_ready,
                    mode=lambda: self.relay.context.config.mode,
                )
            if self.http is not None:
                opened.callback(self.http.close)
            if self.config.admin is not None and not self._worker:
                self._admin = AdminServer(self.config, [self._feedback.handler(), reload_handler(self.reloader.reload)])
                await self._admin.start()
                opened.push_async_callback(self._admin.stop)
            if self.processor is not None:
                await self.processor.start()
                opened.push_async_callback(self.processor.drain)
            await self.relay.start()
            if not self._worker:
                for exchange in (self.metrics.exchange, self._feedback.exchange):
                    self.relay.context.guard.state.share(exchange)
            if self.telemetry is not None and not self._worker:
                self.telemetry.send(lambda: [*self.metrics.collect(), *self._rest.collect()])
            if self._admin is not None:
                readiness = asyncio.create_task(self._admin.follow_readiness(lambda: self.is_ready))
                opened.callback(readiness.cancel)
            self._opened = opened.pop_all()
        self._ready = True

    async def _take_last_callers(self, hurried: asyncio.Event) -> None:
        """Go on serving, not ready, for `drain_delay` or until `hurried`."""
        delay = self.relay.context.config.drain_delay.total_seconds()
        await self._become_unready()
        if delay:
            log.info("unready, and draining in %g s", delay)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await hurried.wait()

    async def _become_unready(self) -> None:
        self._ready = False
        if self._admin is not None:
            await self._admin.drain()

    async def stop(self) -> None:
        """Drain: report not ready at once, let calls in flight finish, then close everything."""
        await self._become_unready()
        if self.processor is None:
            await self.relay.drain()
        else:
            await asyncio.gather(self.relay.drain(), self.processor.drain())
        await asyncio.to_thread(self.opinions.close)
        await asyncio.to_thread(self.events.close)
        if self.sample is not None:
            await asyncio.to_thread(self.sample.close)
        await asyncio.to_thread(self.relay.context.guard.state.close)
        if self.telemetry is not None:
            await asyncio.to_thread(self.telemetry.close)
        await self._opened.aclose()

    async def run(self, started: Callable[[], None], until: asyncio.Event) -> None:
        """Start, call `started`, and serve until SIGTERM, SIGINT or `until`; then drain. SIGHUP reloads.

        When SIGTERM comes, load balancers still send calls here, so draining begins `drain_delay` later, or at once
        when another signal comes.
        """
        loop = asyncio.get_running_loop()
        hurried = asyncio.Event()
        delays = False

        def end(*, delay: bool) -> None:
            nonlocal delays
            if until.is_set():
                hurried.set()
            else:
                delays = delay
                until.set()

        loop.add_signal_handler(signal.SIGTERM, partial(end, delay=True))
        loop.add_signal_handler(signal.SIGINT, partial(end, delay=False))
        reloading: set[asyncio.Task[None]] = set()

        def hang_up() -> None:
            if len(reloading) > 1:
                return  # one is under way, and the next one will read what the file says then
            task = loop.create_task(self._reload())
            reloading.add(task)
            task.add_done_callback(reloading.discard)

        loop.add_signal_handler(signal.SIGHUP, hang_up)
        raise_limit()
        await self.start()
        try:
            gc.collect()
            gc.freeze()  # what start-up made stays; collecting it again and again would only take time
            gc.set_threshold(*GC_THRESHOLDS)
            return_large_blocks()
            holes = loop.create_task(return_holes())
            self._opened.callback(holes.cancel)
            started()
            await until.wait()
            if delays:
                await self._take_last_callers(hurried)
            log.info("draining")
        finally:
            await self.stop()

    async def _reload(self) -> None:
        with suppress(ReloadError):  # it is in the log and in the metrics
            await self.reloader.reload()


def exports_counts(config: Config) -> bool:
    """Whether metrics are visible to anybody."""
    sent = config.opentelemetry is not None and config.opentelemetry.metrics is not None
    return config.metrics is not None or sent or (config.events is not None and config.events.evidence)


def event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop: uvloop's, where there is one."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on an event loop of its own."""
    with asyncio.Runner(loop_factory=event_loop) as runner:
        runner.run(main)
    leave_readers()
