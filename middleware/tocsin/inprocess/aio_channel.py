"""A guarded grpc.aio.Channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any

import grpc

from tocsin.inprocess.asking import ask_fallback_aio
from tocsin.inprocess.capture import Received, Sent, text_metadata, with_verdict
from tocsin.inprocess.channel import Guarded, GuardedCalls
from tocsin.inprocess.holding import Holding, Settled
from tocsin.inprocess.withheld import withheld_aio
from tocsin.judgement.acting import Ask
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call

Asker = Callable[[Ask], Awaitable[bytes | None]]


class _Callable:
    """What the four kinds have in common."""

    request_streams = False
    response_streams = False

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        self._batcher: Batcher | None = None

    def __call__(self, request: Any = None, *, metadata: Any = None, **more: Any) -> Any:
        guarded = self._guarded
        call = guarded.guard.call(guarded.method, text_metadata(metadata))
        assert call is not None  # the channel has asked
        if self._batcher is None:
            self._batcher = Batcher(guarded.guard)
        holding = Holding(guarded.guard, call, asks=not self.request_streams)
        if self.request_streams:
            sent = None if request is None else _sent_stream(request, call)
            inner = guarded.inner(sent, metadata=metadata, **more)
        else:
            inner = guarded.inner(Sent(request, call), metadata=metadata, **more)
        if self.response_streams:
            return _CALLS[self.request_streams, True](inner, holding, guarded, self._batcher, _nobody)
        ask = self._asker(request, call, metadata, more)
        return _CALLS[self.request_streams, False](inner, holding, guarded, self._batcher, ask)

    def _asker(self, request: Any, call: Call, metadata: Any, more: dict[str, Any]) -> Asker:
        """Sends the call's request once more."""
        guarded = self._guarded

        async def ask(step: Ask) -> bytes | None:
            timeout = more.get("timeout")
            seconds = step.seconds if timeout is None else min(step.seconds, timeout)
            if step.upstream is not None:
                assert call.request is not None
                return await ask_fallback_aio(step, guarded.method, call.request, metadata, seconds)
            try:
                received: Received = await guarded.inner(
                    Sent(request, None), metadata=metadata, **{**more, "timeout": seconds}
                )
            except grpc.RpcError:
                return None
            return received.content

        return ask


class UnaryUnary(_Callable, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """A guarded method of one request and one response."""


class StreamUnary(_Callable, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[misc]
    """A guarded method of many requests and one response."""

    request_streams = True


class UnaryStream(_Callable, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[misc]
    """A guarded method of one request and many responses."""

    response_streams = True


class StreamStream(_Callable, grpc.aio.StreamStreamMultiCallable):  # type: ignore[misc]
    """A guarded method of many requests and many responses."""

    request_streams = response_streams = True


class _GuardedCall:
    """A call under way, as far as it is the same for all kinds."""

    def __init__(self, inner: Any, holding: Holding, guarded: Guarded, batcher: Batcher, ask: Asker) -> None:
        self._inner = inner
        self._holding = holding
        self._guarded = guarded
        self._batcher = batcher
        self._ask = ask
        self._withheld: grpc.aio.AioRpcError | None = None

    async def _settle(self, pieces: Sequence[Call]) -> Settled:
        settled = await self._holding.settle_aio(pieces, self._batcher, self._ask)
        if settled.instead is not None and not settled.instead.responses:
            self._withheld = withheld_aio(settled.instead, self._holding.call)
        return settled

    async def _judged(self) -> None:
        """Wait until everything is judged that will be."""

    async def trailing_metadata(self) -> Any:
        if self._holding.instead is None and await self._inner.code() is grpc.StatusCode.OK:
            await self._judged()
        instead = self._holding.instead
        return grpc.aio.Metadata(*with_verdict(await self._inner.trailing_metadata(), self._holding.call, instead))

    async def initial_metadata(self) -> Any:
        return await self._inner.initial_metadata()

    async def code(self) -> Any:
        instead = self._holding.instead
        return await self._inner.code() if instead is None else instead.status

    async def details(self) -> Any:
        instead = self._holding.instead
        return await self._inner.details() if instead is None else instead.message

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


class _OneResponse(_GuardedCall):
    """Awaited for its only message, judged with those that came in the same turn of the loop."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._outcome: asyncio.Task[Any] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        if self._outcome is None:
            self._outcome = asyncio.ensure_future(self._receive())
        return await asyncio.shield(self._outcome)

    async def _judged(self) -> None:
        try:
            await self._result()
        except grpc.aio.AioRpcError:
            if self._withheld is None:
                raise

    async def _receive(self) -> Any:
        received: Received = await self._inner
        settled = await self._settle(self._holding.take(received))
        if settled.instead is None:
            return received.message
        if not settled.instead.responses:
            assert self._withheld is not None
            raise self._withheld
        return self._guarded.deserialize(settled.instead.responses[0]).message


class _ManyResponses(_GuardedCall):
    """A stream of responses, read or iterated over; in enforce, each message once its judgement is there."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._ready: deque[Any] = deque()
        self._finished = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        while not self._ready:
            if self._withheld is not None:
                raise self._withheld
            if self._finished:
                return grpc.aio.EOF
            await self._advance()
        return self._ready.popleft()

    async def _advance(self) -> None:
        """Take one more message, or the end."""
        try:
            received = await self._inner.read()
        except BaseException:
            self._holding.over()
            raise
        if received is grpc.aio.EOF:
            self._finished = True
            settled = await self._settle(self._holding.end())
            self._holding.over()
        else:
            settled = await self._settle(self._holding.take(received))
        self._ready.extend(one.message for one in settled.messages)
        if settled.instead is not None:
            self._finished = True
            self._ready.extend(self._guarded.deserialize(one).message for one in settled.instead.responses)
            self._inner.cancel()


class _ManyRequests(_GuardedCall):
    """Requests written one by one."""

    async def write(self, request: Any) -> None:
        await self._inner.write(Sent(request, self._holding.call))

    async def done_writing(self) -> None:
        await self._inner.done_writing()


class GuardedUnaryUnary(_OneResponse, grpc.aio.UnaryUnaryCall):  # type: ignore[misc]
    """A call of one request and one response."""


class GuardedUnaryStream(_ManyResponses, grpc.aio.UnaryStreamCall):  # type: ignore[misc]
    """A call of one request and many responses."""


class GuardedStreamUnary(_OneResponse, _ManyRequests, grpc.aio.StreamUnaryCall):  # type: ignore[misc]
    """A call of many requests and one response."""


class GuardedStreamStream(_ManyResponses, _ManyRequests, grpc.aio.StreamStreamCall):  # type: ignore[misc]
    """A call of many requests and many responses."""


_CALLS: dict[tuple[bool, bool], Any] = {
    (False, False): GuardedUnaryUnary,
    (False, True): GuardedUnaryStream,
    (True, False): GuardedStreamUnary,
    (True, True): GuardedStreamStream,
}


class GuardedAioChannel(GuardedCalls, grpc.aio.Channel):  # type: ignore[misc]
    """The same channel, calls of guarded methods judged; those of other methods pass as they are."""

    guarded = {  # noqa: RUF012 (one for all)
        "unary_unary": UnaryUnary,
        "unary_stream": UnaryStream,
        "stream_unary": StreamUnary,
        "stream_stream": StreamStream,
    }

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


async def _nobody(step: Ask) -> None:
    """A stream's request is not sent again."""
    del step


async def _sent_stream(requests: AsyncIterable[Any] | Iterable[Any], call: Call) -> AsyncIterator[Sent]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield Sent(request, call)
    else:
        for request in requests:
            yield Sent(request, call)
