"""Guarded transports of httpx, sync and async, and of httpx2, which has the same classes under another name."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from tocsin.exchange.exchange import (
    BODY_DEPENDENT_FIELDS,
    DOCUMENT,
    Exchange,
    Exchanges,
    ResponseTreatment,
    Segment,
    until_done,
    without_verdict,
)
from tocsin.exchange.gated import Answer
from tocsin.exchange.replies import ending, reply, verdict_fields
from tocsin.inprocess.http_gate import HttpGate
from tocsin.inprocess.reading import EXTENSION
from tocsin.judgement.batching import Batcher
from tocsin.judgement.enforcement import Ask
from tocsin.judgement.guard import Guard
from tocsin.outbound_http import HttpCall, HttpTarget, send, send_aio

_LIBRARIES = ("httpx", "httpx2")
_OF_REQUEST_BYTES = ("content-length", "accept-encoding", "transfer-encoding")  # what changes with a longer request


def guarded_transport(transport: Any, guard: Guard) -> Any:
    """A transport like this one, whose responses are judged. Raises TypeError where it is none."""
    exchanges = Exchanges(guard)
    exchanges.require("guard_transport")
    kinds = hasattr(transport, "handle_request"), hasattr(transport, "handle_async_request")
    return _transport_class(_library_of(transport), *kinds)(transport, exchanges)


def _library_of(transport: Any) -> str:
    for base in type(transport).__mro__:
        name = base.__module__.partition(".")[0]
        if name in _LIBRARIES:
            return name
        if base.__name__ in ("BaseTransport", "AsyncBaseTransport"):  # a library may name itself in its classes
            return _defining(base)
    raise TypeError(f"expected a transport such as httpx.HTTPTransport(), not a {type(transport).__name__}")


def _defining(base: type) -> str:
    for name in _LIBRARIES:
        if getattr(sys.modules.get(name), base.__name__, None) is base:
            return name
    raise TypeError(f"expected a transport of httpx, not a {base.__module__}.{base.__name__}")


@cache
def _transport_class(name: str, is_sync: bool, is_async: bool) -> Any:
    """The class of guarded transports for a library: a transport of its own, of both kinds where what it wraps is."""
    library = import_module(name)
    bases: tuple[type, ...] = ()
    content: dict[str, Any] = {"library": library}
    if is_sync:
        bases += (_Transport, library.BaseTransport)
        content["stream_type"] = type("GuardedStream", (_Stream, library.SyncByteStream), {})
    if is_async:
        bases += (_AsyncTransport, library.AsyncBaseTransport)
        content["async_stream_type"] = type("GuardedStream", (_AsyncStream, library.AsyncByteStream), {})
    return type("GuardedTransport", bases, content)


class _Exchanging:
    """One request and its response, as far as it is the same for sync and async."""

    def __init__(self, library: Any, exchange: Exchange, request: Any) -> None:
        self._library = library
        self.exchange = exchange
        self.gate = HttpGate(exchange)
        self.request = request
        self.head = ResponseTreatment(False)

    def on_request(self, body: bytes) -> None:
        """The request is complete; it may go on as another."""
        changed = self.exchange.on_request(body)
        if changed is None:
            return
        fields = self.request.headers.raw
        headers = [(key, value) for key, value in fields if key.lower().decode("latin-1") not in _OF_REQUEST_BYTES]
        headers.append((b"accept-encoding", b"identity"))
        method, url, extensions = self.request.method, self.request.url, self.request.extensions
        self.request = self._library.Request(method, url, headers=headers, content=changed, extensions=extensions)

    def on_response(self, response: Any) -> None:
        """A response begins."""
        headers = _fields(response.headers)
        self.gate.accept(headers)
        self.head = self.exchange.on_response_headers(response.status_code, headers)

    @property
    def reads_first(self) -> bool:
        """Whether the program gets its response only once something of the body may go on."""
        return self.head.is_judged and (self.head.kind == DOCUMENT or self.gate.holds)

    def early(self, segments: Sequence[Segment]) -> bytes:
        """What goes on before it is judged."""
        return b"" if self.gate.holds or self.head.kind == DOCUMENT else until_done(segments)

    def rest(self) -> bytes:
        """What follows in a stream of which some has gone on, and the rest is replaced."""
        answer, instead = self.gate.answer, self.gate.instead
        assert instead is not None
        return answer.body if answer is not None else ending(self.exchange, instead)

    def with_stream(self, response: Any, stream: Any) -> Any:
        """The response that the program gets, whose body is this stream."""
        headers = without_verdict(_fields(response.headers))
        if self.head.rewrites:
            headers = [(name, value) for name, value in headers if name not in BODY_DEPENDENT_FIELDS]
        extensions = {**response.extensions, EXTENSION: self.exchange.call}
        return self._library.Response(response.status_code, headers=headers, stream=stream, extensions=extensions)

    def complete(self, response: Any, body: bytes) -> Any:
        """The response that the program gets, whose body is all there, or what takes its place."""
        status, headers = response.status_code, _fields(response.headers)
        instead = self.gate.instead
        if instead is not None and not self.gate.is_sent:
            status, headers, body = self.gate.answer or reply(self.exchange, instead)
        if self.head.rewrites or instead is not None:
            headers = [(name, value) for name, value in headers if name not in BODY_DEPENDENT_FIELDS]
            headers.append(("content-length", str(len(body))))
        headers = without_verdict(headers) + verdict_fields(self.exchange.call)
        extensions = {**response.extensions, EXTENSION: self.exchange.call}
        stream = self._library.ByteStream(body)
        return self._library.Response(status, headers=headers, stream=stream, extensions=extensions)

    def again(self, seconds: float) -> Any:
        """The request once more."""
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        request = self.request
        return self._library.Request(
            request.method,
            request.url,
            headers=request.headers.raw,
            content=request.content,
            extensions={**request.extensions, "timeout": timeout},
        )

    def to_fallback(self, step: Ask) -> tuple[HttpTarget, HttpCall]:
        """The same request to the fallback's address."""
        assert step.upstream is not None
        request, limit = self.request, int(self.exchange.guard.config.max_message)
        path = request.url.raw_path.decode("latin-1")
        sending = HttpCall(request.method, path, _fields(request.headers), request.content, step.seconds, limit)
        return HttpTarget(step.upstream, step.tls), sending

    def is_too_much(self, size: int, deadline: float) -> bool:
        """Whether another response is not worth waiting for."""
        return size > int(self.exchange.guard.config.max_message) or time.monotonic() > deadline


class _Transport:
    """A guarded transport for httpx.Client."""

    library: Any
    stream_type: Any

    def __init__(self, transport: Any, exchanges: Exchanges) -> None:
        self._transport = transport
        self._exchanges = exchanges

    def handle_request(self, request: Any) -> Any:
        exchange = _opened(self._exchanges, request)
        if exchange is None:
            return self._transport.handle_request(request)
        exchanging = _Exchanging(self.library, exchange, request)
        if exchange.wants_request:
            exchanging.on_request(request.read())
        try:
            response = self._transport.handle_request(exchanging.request)
        except BaseException:
            exchanging.gate.close()
            raise
        exchanging.on_response(response)
        if not exchanging.head.is_judged:
            exchanging.gate.close()
            return exchanging.with_stream(response, response.stream)
        parts = self._parts(exchanging, response)
        first: list[bytes] = []
        if exchanging.reads_first:
            wanted = 2 if exchanging.head.kind == DOCUMENT else 1  # a document is one, unless it is too large to read
            for part in parts:
                first.append(part)
                if len(first) == wanted:
                    break
            else:
                return exchanging.complete(response, b"".join(first))
        return exchanging.with_stream(response, self.stream_type(first, parts, response, exchanging.gate))

    def _parts(self, exchanging: _Exchanging, response: Any) -> Iterator[bytes]:
        """The bytes that may go on, as they may."""
        exchange, gate = exchanging.exchange, exchanging.gate

        def ask(step: Ask) -> Answer | None:
            return self._ask(exchanging, step)

        try:
            for content in response.stream:
                segments = exchange.on_response_chunk(content)
                if early := exchanging.early(segments):
                    yield early
                passed = gate.pass_on(segments, ask)[len(early) :]
                if gate.instead is not None:
                    break
                if passed:
                    yield passed
            else:
                passed = gate.pass_on(exchange.on_response_end(), ask, is_end=True)
                if passed and gate.instead is None:
                    yield passed
            if gate.instead is not None and gate.is_sent:
                yield passed + exchanging.rest()
        finally:
            response.close()
            gate.close()

    def _ask(self, exchanging: _Exchanging, step: Ask) -> Answer | None:
        if step.upstream is not None:
            return send(*exchanging.to_fallback(step))
        deadline = time.monotonic() + step.seconds
        try:
            response = self._transport.handle_request(exchanging.again(step.seconds))
            body = bytearray()
            try:
                for content in response.stream:
                    body += content
                    if exchanging.is_too_much(len(body), deadline):
                        return None
            finally:
                response.close()
        except self.library.TransportError:
            return None
        return response.status_code, _fields(response.headers), bytes(body)

    def close(self) -> None:
        self._transport.close()


class _AsyncTransport:
    """A guarded transport for httpx.AsyncClient."""

    library: Any
    async_stream_type: Any
    _batcher: tuple[asyncio.AbstractEventLoop, Batcher] | None = None

    def __init__(self, transport: Any, exchanges: Exchanges) -> None:
        self._transport = transport
        self._exchanges = exchanges

    async def handle_async_request(self, request: Any) -> Any:
        exchange = _opened(self._exchanges, request)
        if exchange is None:
            return await self._transport.handle_async_request(request)
        exchanging = _Exchanging(self.library, exchange, request)
        if exchange.wants_request:
            exchanging.on_request(await request.aread())
        try:
            response = await self._transport.handle_async_request(exchanging.request)
        except BaseException:
            exchanging.gate.close()
            raise
        exchanging.on_response(response)
        if not exchanging.head.is_judged:
            exchanging.gate.close()
            return exchanging.with_stream(response, response.stream)
        parts = self._parts(exchanging, response)
        first: list[bytes] = []
        if exchanging.reads_first:
            wanted = 2 if exchanging.head.kind == DOCUMENT else 1
            async for part in parts:
                first.append(part)
                if len(first) == wanted:
                    break
            else:
                return exchanging.complete(response, b"".join(first))
        return exchanging.with_stream(response, self.async_stream_type(first, parts, response, exchanging.gate))

    async def _parts(self, exchanging: _Exchanging, response: Any) -> AsyncIterator[bytes]:
        """The bytes that may go on, as they may."""
        exchange, gate, batcher = exchanging.exchange, exchanging.gate, self._running_batcher()

        async def ask(step: Ask) -> Answer | None:
            return await self._ask(exchanging, step)

        try:
            async for content in response.stream:
                segments = exchange.on_response_chunk(content)
                if early := exchanging.early(segments):
                    yield early
                passed = (await gate.pass_on_aio(segments, batcher, ask))[len(early) :]
                if gate.instead is not None:
                    break
                if passed:
                    yield passed
            else:
                passed = await gate.pass_on_aio(exchange.on_response_end(), batcher, ask, is_end=True)
                if passed and gate.instead is None:
                    yield passed
            if gate.instead is not None and gate.is_sent:
                yield passed + exchanging.rest()
        finally:
            gate.close()
            await response.aclose()

    async def _ask(self, exchanging: _Exchanging, step: Ask) -> Answer | None:
        if step.upstream is not None:
            return await send_aio(*exchanging.to_fallback(step))
        try:
            return await asyncio.wait_for(self._asked_again(exchanging, step), step.seconds)
        except (self.library.TransportError, TimeoutError):
            return None

    async def _asked_again(self, exchanging: _Exchanging, step: Ask) -> Answer | None:
        deadline = time.monotonic() + step.seconds
        response = await self._transport.handle_async_request(exchanging.again(step.seconds))
        body = bytearray()
        try:
            async for content in response.stream:
                body += content
                if exchanging.is_too_much(len(body), deadline):
                    return None
        finally:
            await response.aclose()
        return response.status_code, _fields(response.headers), bytes(body)

    def _running_batcher(self) -> Batcher:
        """Judges in the running event loop."""
        running = asyncio.get_running_loop()
        if self._batcher is None or self._batcher[0] is not running:
            self._batcher = running, Batcher(self._exchanges.guard)
        return self._batcher[1]

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Stream:
    """A response's body: parts that are there already, and those that come."""

    def __init__(self, first: Sequence[bytes], parts: Iterator[bytes], response: Any, gate: HttpGate) -> None:
        self._first, self._parts = first, parts
        self._response, self._gate = response, gate

    def __iter__(self) -> Iterator[bytes]:
        yield from self._first
        yield from self._parts

    def close(self) -> None:
        self._parts.close()  # type: ignore[attr-defined]
        self._response.close()  # also where no part was asked for
        self._gate.close()


class _AsyncStream:
    """The same in an event loop."""

    def __init__(self, first: Sequence[bytes], parts: AsyncIterator[bytes], response: Any, gate: HttpGate) -> None:
        self._first, self._parts = first, parts
        self._response, self._gate = response, gate

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._first:
            yield part
        async for part in self._parts:
            yield part

    async def aclose(self) -> None:
        await self._parts.aclose()  # type: ignore[attr-defined]
        await self._response.aclose()
        self._gate.close()


def _opened(exchanges: Exchanges, request: Any) -> Exchange | None:
    path = request.url.raw_path.decode("latin-1")
    return exchanges.open(request.method, path, _fields(request.headers))


def _fields(headers: Any) -> list[tuple[str, str]]:
    """Header fields as text, named in lower case."""
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers.raw]
