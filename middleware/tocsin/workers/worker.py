"""A worker: it relays and judges like a sidecar, and reports its counts to the supervisor."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from tocsin.errors import ReloadError
from tocsin.service import Sidecar

REPORT_INTERVAL = 0.2  # seconds between reports
MAX_LINE = 64 << 20  # bytes of a line


class Reporter:
    """Talks to the supervisor over a socket in lines of JSON: it reports what was counted since the last report, and
    answers commands.
    """

    def __init__(self, sidecar: Sidecar, end: socket.socket) -> None:
        self._sidecar = sidecar
        self._end = end
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, gone: asyncio.Event) -> None:
        """Start reporting. `gone` is set when the supervisor is gone."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._end, limit=MAX_LINE)
        self._tasks = [asyncio.create_task(self._report()), asyncio.create_task(self._listen(reader, gone))]

    async def finish(self) -> None:
        """Send the last report."""
        for task in self._tasks:
            task.cancel()
        await self._tell(self._counted())

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            await self._tell(self._counted())

    async def _listen(self, reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
        while line := await reader.readline():
            command = json.loads(line)
            if command.get("do") == "reload":
                self._tasks.append(asyncio.create_task(self._reload(command["number"])))
        gone.set()

    async def _reload(self, number: int) -> None:
        try:
            await self._tell({"number": number, "reloaded": await self._sidecar.reloader.reload()})
        except ReloadError as error:
            await self._tell({"number": number, "failed": str(error)})

    def _counted(self) -> dict[str, Any]:
        sidecar = self._sidecar
        processed = sidecar.processor.facts() if sidecar.processor is not None else {}
        sent = sidecar.telemetry.facts() if sidecar.telemetry is not None else {}
        sampled = sidecar.sample.facts() if sidecar.sample is not None else {}
        return {
            "metrics": sidecar.metrics.take_delta(),
            "relay": sidecar.relay.facts()
            | processed
            | sidecar.events.facts()
            | sent
            | sampled
            | sidecar.opinions.facts(),
            "alarms": sidecar.events.news(),
        }

    async def _tell(self, what: dict[str, Any]) -> None:
        assert self._writer is not None
        try:
            self._writer.write(json.dumps(what, separators=(",", ":")).encode() + b"\n")
            await self._writer.drain()
        except ConnectionError:  # the supervisor has gone: so will this worker
            return
