"""One worker as its supervisor has it: a process, what it reports, and what it is asked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tocsin.errors import ReloadError
from tocsin.relay.health import Facts
from tocsin.reloading import RELOAD_TIMEOUT
from tocsin.workers.worker import MAX_LINE
from tocsin_detectors.sharing import FOLDER


class WorkerProcess:
    """One worker process, restarted under the same number. `relay` is the health that it reported last, `ready` whether
    it serves. `folder` is for files that workers share, "" for none.
    """

    def __init__(self, number: int, path: Path, folder: str) -> None:
        self.number = number
        self._environment = {**os.environ, FOLDER: folder} if folder else None
        self.relay: Facts = {}
        self.ready = asyncio.Event()
        self._ending = False
        self._path = path
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._answer: asyncio.Future[str] | None = None
        self._reloads = 0  # how often it was asked to reload: an answer that comes too late is not the next one's

    async def start(self) -> None:
        """Start the process."""
        self.ready.clear()
        ours, theirs = socket.socketpair()
        command = ["-m", "tocsin", "serve", "-c", str(self._path), "--worker", str(theirs.fileno())]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *command, pass_fds=[theirs.fileno()], env=self._environment
        )
        theirs.close()
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE)

    async def reports(self) -> AsyncIterator[dict[str, Any]]:
        """The worker's reports of its counts, until it ends."""
        assert self._reader is not None and self._writer is not None
        with suppress(ConnectionError):
            while line := await self._reader.readline():
                try:
                    report = json.loads(line)
                except ValueError:  # cut short by its end
                    break
                if "metrics" in report:
                    self.ready.set()
                    yield report
                elif self._answer is not None and not self._answer.done() and report["number"] == self._reloads:
                    if "failed" in report:
                        self._answer.set_exception(ReloadError(report["failed"]))
                    else:
                        self._answer.set_result(report["reloaded"])
        self._writer.close()

    async def reload(self) -> str:
        """Have the worker reload. Raises ReloadError."""
        assert self._writer is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._reloads += 1
        self._writer.write(json.dumps({"do": "reload", "number": self._reloads}).encode() + b"\n")
        try:
            async with asyncio.timeout(RELOAD_TIMEOUT + 10):
                return await self._answer
        except TimeoutError:
            raise ReloadError(f"worker {self.number} did not answer") from None

    async def wait_for_end(self) -> int:
        """Wait for the end of the process. Returns its exit code."""
        assert self._process is not None
        self.ready.clear()
        return await self._process.wait()

    def is_ending(self) -> bool:
        """Whether the worker was signalled to end."""
        return self._ending

    def end(self, number: signal.Signals) -> None:
        """Have the worker drain and end, by SIGTERM (after `drain_delay`) or SIGINT."""
        self._ending = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
