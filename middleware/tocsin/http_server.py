"""A small HTTP server for operators: GET only, one request for each connection, one thread for all of them.

A connection that sends nothing costs a descriptor for some seconds, and no thread. Where there are too many, the one
that has been silent longest makes room.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tocsin.sockets import BoundSocket

log = logging.getLogger("tocsin")

MAX_CONNECTIONS = 128  # open at a time, and at most an eighth of the descriptors that the process may have
MAX_REQUEST_HEAD = 16 << 10  # bytes of a request
REQUEST_TIMEOUT = 5.0  # seconds for a request to come
WRITE_TIMEOUT = 30.0  # seconds for an answer, or each part of one that goes on, to be read

Header = tuple[str, str]


class Request(NamedTuple):
    """An HTTP request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, str] = MappingProxyType({})  # of keys that stand several times, the last


class Response(NamedTuple):
    """A response: its body at once, or in parts."""

    status: HTTPStatus
    headers: Sequence[Header]
    body: bytes | AsyncGenerator[bytes, None]


def text(status: HTTPStatus, content: str) -> Response:
    """A response of one line of text."""
    return Response(status, [("Content-Type", "text/plain; charset=utf-8")], content.encode() + b"\n")


class HttpServer:
    """Answers requests on a bound socket by calling `answer` in the server's own thread."""

    def __init__(self, bound: BoundSocket, answer: Callable[[Request], Response]) -> None:
        self._bound, self._answer = bound, answer
        self._most = min(MAX_CONNECTIONS, max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))
        self._waiting: dict[asyncio.Task[None], None] = {}  # those whose request has not come, the longest first
        self._connected: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._running = threading.Event()
        bound.socket.listen(MAX_CONNECTIONS)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="tocsin-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._running.wait(5)
        if self._loop is not None and self._ending is not None:
            with suppress(RuntimeError):  # its loop has ended
                self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(5)
        self._bound.close()

    async def _run(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, sock=self._bound.socket.dup(), limit=MAX_REQUEST_HEAD)
        self._running.set()
        await self._ending.wait()
        server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection. Where there are as many as may be, the one that has been silent longest makes room, and
        without a silent one the new connection is refused.
        """
        task = asyncio.current_task()
        assert task is not None
        if len(self._connected) >= self._most:
            if not self._waiting:
                writer.transport.abort()
                return
            longest = next(iter(self._waiting))
            del self._waiting[longest]
            self._connected.discard(longest)
            longest.cancel()
        self._connected.add(task)
        self._waiting[task] = None
        try:
            await self._serve(task, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            writer.transport.abort()  # gone, too slow, too long, or not wanted any more
        except Exception as error:
            log.error("metrics: a request could not be answered: %s: %s", type(error).__name__, error)
            writer.transport.abort()
        finally:
            self._connected.discard(task)
            self._waiting.pop(task, None)

    async def _serve(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            request = _parsed(await reader.readuntil(b"\r\n\r\n"))
        self._waiting.pop(task, None)
        response = text(HTTPStatus.BAD_REQUEST, "this is no HTTP request") if request is None else self._answer(request)
        headers = [*response.headers, ("Connection", "close")]
        if isinstance(response.body, bytes):
            headers.append(("Content-Length", str(len(response.body))))
        lines = [
            f"HTTP/1.1 {response.status.value} {response.status.phrase}",
            *(f"{n}: {v}" for n, v in headers),
            "",
            "",
        ]
        writer.write("\r\n".join(lines).encode("latin-1", "replace"))
        bare = request is not None and request.method == "HEAD"
        if not isinstance(response.body, bytes):
            async with aclosing(response.body) as parts:
                async for part in parts:
                    if bare:
                        break
                    writer.write(part)
                    async with asyncio.timeout(WRITE_TIMEOUT):
                        await writer.drain()
        elif not bare:
            writer.write(response.body)
        async with asyncio.timeout(WRITE_TIMEOUT):
            writer.close()
            await writer.wait_closed()


def _parsed(head: bytes) -> Request | None:
    """Parse the head of a request; None where it is not one."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    try:
        target = urlsplit(words[1])
        path, query = unquote(target.path), dict(parse_qsl(target.query))
    except ValueError:
        return None
    pairs = (line.partition(":") for line in lines)
    return Request(words[0], path, {name.strip().lower(): value.strip() for name, _, value in pairs}, query)
