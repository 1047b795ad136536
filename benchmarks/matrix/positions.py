"""Where a response is judged: what a caller gets of it in each position. A new one is one more entry of POSITIONS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import h11
import httpx

import tocsin
from benchmarks.matrix.answers import Answer, pieces_of
from benchmarks.matrix.envoy import ext_proc
from tocsin.asgi import GuardMiddleware
from tocsin.configuration.fields import Address
from tocsin.http_relay.server import HttpRelay
from tocsin.judgement.guard import Guard
from tocsin.relay.server import Relay

REQUEST = b'{"model":"m"}'

Position = Callable[[Guard, str, Answer], Answer]


def asgi(guard: Guard, path: str, answer: Answer) -> Answer:
    """A guarded ASGI application, called as a server calls it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        for piece in pieces_of(answer.body):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def run() -> Answer:
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
                 "headers": [(b"content-type", b"application/json")], "http_version": "1.1"}  # fmt: skip
        requests = iter([{"type": "http.request", "body": REQUEST, "more_body": False}])
        sent: list[Any] = []

        async def receive() -> Any:
            message = next(requests, None)
            if message is None:
                await asyncio.Event().wait()
            return message

        async def send(message: Any) -> None:
            sent.append(message)

        is_cut = False
        try:
            await asyncio.wait_for(GuardMiddleware(app, guard=guard)(scope, receive, send), 60)
        except Exception:
            is_cut = True
        start = next((message for message in sent if message["type"] == "http.response.start"), None)
        if start is None:
            return Answer(500, {}, b"", True)
        body = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], headers, body, is_cut)

    return asyncio.run(run())


class _Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield from pieces_of(self._body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in pieces_of(self._body):
            yield piece
            await asyncio.sleep(0)


class _Server(httpx.BaseTransport, httpx.AsyncBaseTransport):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(self._answer.status, headers=self._answer.headers, stream=_Stream(self._answer.body))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(self._answer.status, headers=self._answer.headers, stream=_Stream(self._answer.body))


class _SyncServer(httpx.BaseTransport):
    def __init__(self, answer: Answer) -> None:
        self._server = _Server(answer)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._server.handle_request(request)


class _AsyncServer(httpx.AsyncBaseTransport):
    def __init__(self, answer: Answer) -> None:
        self._server = _Server(answer)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._server.handle_async_request(request)


def _received(response: httpx.Response, parts: list[bytes], is_cut: bool) -> Answer:
    has_verdict = tocsin.verdict(response) is not None
    return Answer(response.status_code, dict(response.headers), b"".join(parts), is_cut, has_verdict)


def transport(guard: Guard, path: str, answer: Answer) -> Answer:
    """A caller with a guarded transport of httpx."""
    with httpx.Client(transport=tocsin.guard_transport(_SyncServer(answer), guard)) as client:
        parts: list[bytes] = []
        with client.stream("POST", f"http://model{path}", content=REQUEST) as response:
            try:
                parts.extend(response.iter_raw())
            except httpx.HTTPError:
                return _received(response, parts, True)
        return _received(response, parts, False)


def async_transport(guard: Guard, path: str, answer: Answer) -> Answer:
    """The same in an event loop."""

    async def run() -> Answer:
        async with httpx.AsyncClient(transport=tocsin.guard_transport(_AsyncServer(answer), guard)) as client:
            parts: list[bytes] = []
            async with client.stream("POST", f"http://model{path}", content=REQUEST) as response:
                try:
                    async for part in response.aiter_raw():
                        parts.append(part)
                except httpx.HTTPError:
                    return _received(response, parts, True)
            return _received(response, parts, False)

    return asyncio.run(run())


def http_relay(guard: Guard, path: str, answer: Answer) -> Answer:
    """A relay between a caller and a server, over HTTP/1.1 and sockets; a strict parser reads what the caller gets."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(REQUEST)
        head = b"".join(f"{name}: {value}\r\n".encode() for name, value in answer.headers.items())
        writer.write(b"HTTP/1.1 %d OK\r\ntransfer-encoding: chunked\r\n%b\r\n" % (answer.status, head))
        for piece in pieces_of(answer.body):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async def run() -> Answer:
        server = await asyncio.start_server(respond, "127.0.0.1", 0)
        upstream = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        served = guard.config.model_copy(update={"listen": Address("127.0.0.1", 0), "upstream": upstream})
        relay = Relay(served, guard, http=HttpRelay)
        await relay.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.address.port)
        writer.write(b"POST %b HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\n" % path.encode())
        writer.write(b"content-length: %d\r\n\r\n%b" % (len(REQUEST), REQUEST))
        try:
            return await asyncio.wait_for(_read_response(reader), 60)
        finally:
            writer.close()
            await relay.drain()
            server.close()

    return asyncio.run(run())


async def _read_response(reader: asyncio.StreamReader) -> Answer:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="POST", target="/", headers=[("host", "model"), ("content-length", "0")]))
    parser.send(h11.EndOfMessage())
    status, headers, parts = 0, dict[str, str](), list[bytes]()
    try:
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(1 << 16))
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, {key.decode(): value.decode() for key, value in event.headers}
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
    except h11.RemoteProtocolError:
        return Answer(status, headers, b"".join(parts), is_cut=True)
    return Answer(status, headers, b"".join(parts))


POSITIONS: dict[str, Position] = {
    "ASGI middleware": asgi,
    "httpx transport": transport,
    "httpx transport, async": async_transport,
    "external processor": ext_proc,
    "HTTP relay": http_relay,
}
