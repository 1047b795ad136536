"""A running sidecar: relay, metrics and health together, from start to the end of draining."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from tocsin.config import Config
from tocsin.feedback import FeedbackService
from tocsin.judgement.guard import Guard
from tocsin.observability import AdminServer, HttpEndpoint
from tocsin.relay.server import Relay
from tocsin.sinks.prometheus import PrometheusSink

log = logging.getLogger("tocsin")


class Sidecar:
    """Everything that `tocsin serve` and `tocsin record` run.

    `guard` judges (or records); a PrometheusSink is added to its sinks. Raises StartError from `start`.
    """

    def __init__(self, config: Config, guard: Guard) -> None:
        self.config = config
        metrics = PrometheusSink(guard.models)
        guard.sinks.append(metrics)
        self.relay = Relay(config, guard, metrics.added)
        self._registry = metrics.registry()
        self._registry.register(self.relay)
        self._feedback = FeedbackService(guard)
        self._admin: AdminServer | None = None
        self.http: HttpEndpoint | None = None
        self._opened = AsyncExitStack()
        self._ready = False

    async def start(self) -> None:
        """Listen everywhere, or, when an address cannot be had, nowhere."""
        async with AsyncExitStack() as opened:
            if self.config.metrics is not None:
                self.http = HttpEndpoint(self.config.metrics, self._registry, lambda: self._ready)
                opened.callback(self.http.close)
            if self.config.admin is not None:
                self._admin = AdminServer(self.config.admin, [self._feedback.handler()])
                await self._admin.start()
                opened.push_async_callback(self._admin.stop)
            await self.relay.start()
            self._opened = opened.pop_all()
        self._ready = True

    async def stop(self) -> None:
        """Drain: unready at once, calls in flight finish, then everything closes."""
        self._ready = False
        if self._admin is not None:
            await self._admin.drain()
        await self.relay.drain()
        await self._opened.aclose()

    async def run(self, started: Callable[[], None], until: asyncio.Event) -> None:
        """Start, call `started`, and serve until SIGTERM, SIGINT or `until`; then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, until.set)
        await self.start()
        try:
            gc.collect()
            gc.freeze()  # what start-up made stays; collecting it again and again would only take time
            gc.set_threshold(50_000, 20, 100)
            started()
            await until.wait()
            log.info("draining")
        finally:
            await self.stop()


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on uvloop, where there is one."""
    if sys.platform == "win32":
        asyncio.run(main)
        return
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
