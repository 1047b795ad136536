"""A guarded grpc.aio.Channel."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import grpc

from tocsin.inprocess.capture import Received, Sent, text_metadata, with_verdict
from tocsin.inprocess.channel import GuardedCalls
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard


class GuardedAioCallable(grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """A guarded method."""

    def __init__(self, inner: Any, guard: Guard, method: str) -> None:
        self._inner = inner
        self._guard = guard
        self._method = method
        self._batcher: Batcher | None = None

    def __call__(self, request: Any, *, metadata: Any = None, **kwargs: Any) -> GuardedAioCall:
        call = self._guard.call(self._method, text_metadata(metadata))
        assert call is not None  # unary_unary has asked
        if self._batcher is None:
            self._batcher = Batcher(self._guard)
        return GuardedAioCall(self._inner(Sent(request, call), metadata=metadata, **kwargs), call, self._batcher)


class GuardedAioCall(grpc.aio.UnaryUnaryCall):  # type: ignore[misc]
    """A call under way: its response is judged with those that came in the same turn of the loop."""

    def __init__(self, inner: Any, call: Call, batcher: Batcher) -> None:
        self._inner = inner
        self._call = call
        self._batcher = batcher
        self._outcome: asyncio.Task[Any] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._judged().__await__()

    async def _judged(self) -> Any:
        if self._outcome is None:
            self._outcome = asyncio.ensure_future(self._receive())
        return await asyncio.shield(self._outcome)

    async def _receive(self) -> Any:
        received: Received = await self._inner
        self._call.response = received.content
        await self._batcher.judged(self._call)
        return received.message

    async def trailing_metadata(self) -> Any:
        trailing = await self._inner.trailing_metadata()
        if await self._inner.code() is grpc.StatusCode.OK:
            await self._judged()
        return grpc.aio.Metadata(*with_verdict(trailing, self._call))

    async def initial_metadata(self) -> Any:
        return await self._inner.initial_metadata()

    async def code(self) -> Any:
        return await self._inner.code()

    async def details(self) -> Any:
        return await self._inner.details()

    async def wait_for_connection(self) -> None:
        await self._inner.wait_for_connection()

    def cancelled(self) -> bool:
        return bool(self._inner.cancelled())

    def done(self) -> bool:
        return bool(self._inner.done())

    def time_remaining(self) -> Any:
        return self._inner.time_remaining()

    def cancel(self) -> bool:
        return bool(self._inner.cancel())

    def add_done_callback(self, callback: Any) -> None:
        self._inner.add_done_callback(lambda _: callback(self))


class GuardedAioChannel(GuardedCalls, grpc.aio.Channel):  # type: ignore[misc]
    """The same channel, its unary calls judged; calls of other kinds and methods pass as they are."""

    guarded = GuardedAioCallable

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> Any:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: Any) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> GuardedAioChannel:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
