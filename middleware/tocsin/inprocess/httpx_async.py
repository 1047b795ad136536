"""A guarded transport for httpx.AsyncClient."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from tocsin.exchange.gated import Answer
from tocsin.exchange.opening import Exchanges
from tocsin.inprocess.httpx_exchange import BodyParts, HttpxExchange, header_fields, opened
from tocsin.judgement.actions import Ask
from tocsin.judgement.batching import Batcher
from tocsin.outbound_http import send_aio


class GuardedAsyncTransport:
    """Judges the responses of another transport, in an event loop."""

    library: Any
    async_stream_type: Any
    _batcher: tuple[asyncio.AbstractEventLoop, Batcher] | None = None

    def __init__(self, transport: Any, exchanges: Exchanges) -> None:
        self._transport = transport
        self._exchanges = exchanges

    async def handle_async_request(self, request: Any) -> Any:
        """Pass a request on, and judge the response of a guarded route."""
        http_exchange = opened(self.library, self._exchanges, request)
        if http_exchange is None:
            return await self._transport.handle_async_request(request)
        if http_exchange.exchange.wants_request:
            http_exchange.on_request(await request.aread())
        try:
            response = await self._transport.handle_async_request(http_exchange.request)
        except BaseException:
            http_exchange.gate.close()
            raise
        http_exchange.on_response(response)
        if not http_exchange.head.is_judged:
            http_exchange.gate.close()
            return http_exchange.with_stream(response, response.stream)
        parts = self._parts(http_exchange, response)
        first: list[bytes] = []
        if http_exchange.parts_first:
            async for part in parts:
                first.append(part)
                if len(first) == http_exchange.parts_first:
                    break
            else:
                return http_exchange.complete(response, b"".join(first))
        return http_exchange.with_stream(response, self.async_stream_type(first, parts, response, http_exchange.gate))

    async def _parts(self, http_exchange: HttpxExchange, response: Any) -> AsyncIterator[bytes]:
        """The bytes that may go on, as they may."""
        exchange, gate, batcher = http_exchange.exchange, http_exchange.gate, self._running_batcher()

        async def ask(step: Ask) -> Answer | None:
            return await self._ask(http_exchange, step)

        try:
            async for content in response.stream:
                segments = exchange.on_response_chunk(content)
                if early := http_exchange.early(segments):
                    yield early
                if following := http_exchange.after(early, await gate.pass_on_aio(segments, batcher, ask)):
                    yield following
                if gate.instead is not None:
                    return
            passed = await gate.pass_on_aio(exchange.on_response_end(), batcher, ask, is_end=True)
            if following := http_exchange.after(b"", passed):
                yield following
        finally:
            gate.close()
            await response.aclose()

    async def _ask(self, http_exchange: HttpxExchange, step: Ask) -> Answer | None:
        """The fallback's answer, or the model's to the same request; None where none came in time."""
        if step.upstream is not None:
            return await send_aio(*http_exchange.to_fallback(step))
        try:
            return await asyncio.wait_for(self._asked_again(http_exchange, step), step.seconds)
        except (self.library.TransportError, TimeoutError):
            return None

    async def _asked_again(self, http_exchange: HttpxExchange, step: Ask) -> Answer | None:
        deadline = time.monotonic() + step.seconds
        response = await self._transport.handle_async_request(http_exchange.again(step.seconds))
        body = bytearray()
        try:
            async for content in response.stream:
                body += content
                if http_exchange.is_too_much(len(body), deadline):
                    return None
        finally:
            await response.aclose()
        return response.status_code, header_fields(response.headers), bytes(body)

    def _running_batcher(self) -> Batcher:
        """Judges in the running event loop."""
        running = asyncio.get_running_loop()
        if self._batcher is None or self._batcher[0] is not running:
            self._batcher = running, Batcher(self._exchanges.guard)
        return self._batcher[1]

    async def aclose(self) -> None:
        await self._transport.aclose()


class AsyncHttpxBody(BodyParts):
    """A response's body for async callers."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._first:
            yield part
        async for part in self._parts:
            yield part

    async def aclose(self) -> None:
        await self._parts.aclose()
        await self._response.aclose()
        self._gate.close()
