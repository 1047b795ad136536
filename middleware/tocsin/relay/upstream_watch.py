"""Whether the model server behind a port takes connections, for ports and readiness that follow it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("tocsin")

PROBE_INTERVAL = 1.0  # seconds between looks, and what one may take


class UpstreamWatch:
    """Looks whether an upstream takes connections, once a second where nothing else tells.

    `probe` opens and closes a connection to it and raises OSError; `in_use` tells whether a relayed connection to it is
    open; `follow` is called with each change. It counts as down until it was reached.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], Awaitable[None]],
        in_use: Callable[[], bool],
        follow: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._name = name
        self._probe = probe
        self._in_use = in_use
        self._follow = follow
        self._wakes = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.up = False

    async def start(self) -> None:
        """Look once, then go on looking."""
        await self._look()
        if not self.up:
            log.warning("upstream %s cannot be reached yet", self._name)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    def doubt(self) -> None:
        """A connection to it has failed or ended: look at once."""
        self._wakes.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PROBE_INTERVAL):
                    await self._wakes.wait()
            except TimeoutError:
                pass
            self._wakes.clear()
            await self._look()

    async def _look(self) -> None:
        up, why = self._in_use(), ""
        if not up:
            try:
                async with asyncio.timeout(PROBE_INTERVAL):
                    await self._probe()
                up = True
            except TimeoutError:
                why = "it did not answer in time"
            except OSError as error:
                why = error.strerror or f"{error}"
        if up == self.up:
            return
        self.up = up
        if up:
            log.info("upstream %s can be reached", self._name)
        else:
            log.warning("upstream %s cannot be reached: %s", self._name, why)
        await self._follow(up)
