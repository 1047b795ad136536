"""TCP that is forwarded with a delay each way, or from a moment on."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

CHUNK = 256 << 10
UNDER_WAY = 64  # chunks in one direction; more wait at the sender
IDLE_LOOKS = 5  # without a task, until none is to come any more


class Forwarder:
    """A port that leads to another; bound at once, it accepts from `open` on. Runs in a thread of its own."""

    def __init__(self, upstream: int, delay: float = 0.0) -> None:
        """`delay`: seconds that every byte takes, each way."""
        self._upstream = upstream
        self._delay = delay
        self._server: asyncio.Server | None = None
        self._forwarding = set[asyncio.Task[None]]()  # asyncio forgets them once a caller is gone, while servers answer
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Accept connections."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def close(self) -> None:
        """Accept no more, and end what is forwarded."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._socket.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._forward, sock=self._socket, limit=CHUNK)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        idle_looks = 0
        while idle_looks < IDLE_LOOKS:  # what has just been accepted begins a task after those that there are now
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            idle_looks = 0 if tasks else idle_looks + 1
            await asyncio.sleep(0.01)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._forwarding.add(task)
        task.add_done_callback(self._forwarding.discard)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._upstream, limit=CHUNK)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        except asyncio.CancelledError:
            pass  # closed: asyncio would report a server's task that ends so as an error
        finally:
            back.close()
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY)

        async def deliver() -> None:
            while True:
                due, chunk = await under_way.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not chunk:
                    break
                writer.write(chunk)
                await writer.drain()
            with suppress(OSError):
                writer.write_eof()

        delivering = asyncio.ensure_future(deliver())
        try:
            chunk = b" "
            while chunk:
                try:
                    chunk = await reader.read(CHUNK)
                except ConnectionError:
                    chunk = b""
                await under_way.put((self._loop.time() + self._delay, chunk))
            with suppress(ConnectionError):
                await delivering
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)
