"""A guarded grpc.aio.Channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import grpc

from tocsin.inprocess.capture import Capture, text_metadata, with_verdict, without_verdicts
from tocsin.inprocess.channel import GuardedCalls, SentRequest, WrappedMethod
from tocsin.inprocess.holding import Holding, Settled
from tocsin.inprocess.withheld import withheld_aio, without_verdict_aio
from tocsin.judgement.actions import Actions, Ask, Outcome
from tocsin.judgement.batching import Batcher
from tocsin.judgement.policy import Replacement
from tocsin.outbound import aio_channels

Asker = Callable[[Ask], Awaitable[Outcome]]


class _Callable:
    """What callables of the four kinds of call have in common."""

    request_streams = False
    response_streams = False

    def __init__(self, guarded: WrappedMethod) -> None:
        self._guarded = guarded
        self._batcher: Batcher | None = None

    def __call__(self, request: Any = None, *, metadata: Any = None, **more: Any) -> Any:
        guarded = self._guarded
        call = guarded.guard.call(guarded.method, text_metadata(metadata, guarded.guard.score_keys))
        assert call is not None  # the channel has asked
        if self._batcher is None:
            self._batcher = Batcher(guarded.guard)
        holding = Holding(guarded.guard, call, asks=not self.request_streams)
        ask = self._asker(request, metadata, more)
        callable_, capture = guarded.open(call)
        inner = callable_(request, metadata=metadata, **more)
        call_class = _CALLS[self.request_streams, self.response_streams]
        return call_class(inner, holding, guarded, self._batcher, capture, ask)

    def _asker(self, message: Any, metadata: Any, more: dict[str, Any]) -> Asker:
        """A function that sends the call's request once more."""
        guarded, streams = self._guarded, self.response_streams
        request = SentRequest(guarded, more.get("timeout"), metadata)

        async def ask(step: Ask) -> Outcome:
            if step.upstream is not None:
                return await aio_channels().send(*request.to_fallback(step))
            seconds = request.seconds(step)
            if seconds <= 0:
                return None
            inner, capture = guarded.open(None)
            try:
                response = inner(message, metadata=metadata, **{**more, "timeout": seconds})
                messages = [answer async for answer in response] if streams else [await response]
            except grpc.RpcError:
                return None
            contents = [capture.content_of(answer) for answer in messages]
            present = [content for content in contents if content is not None]
            return present if len(present) == len(contents) else None

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
    """A call under way; what the four kinds have in common."""

    def __init__(
        self, inner: Any, holding: Holding, guarded: WrappedMethod, batcher: Batcher, capture: Capture, ask: Asker
    ) -> None:
        self._inner = inner
        self._capture = capture
        self._holding = holding
        self._guarded = guarded
        self._batcher = batcher
        self._ask = ask
        self._withheld: grpc.aio.AioRpcError | None = None

    async def _perform(self, actions: Actions) -> Settled:
        settled = await self._holding.perform_aio(actions, self._batcher, self._ask)
        if settled.instead is not None and not settled.instead.responses:
            self._withheld = withheld_aio(settled.instead, self._holding.call)
        return settled

    async def _note_metadata(self) -> None:
        """Keep what judging reads of the metadata of a complete response."""
        if self._holding.call.wants_initial:
            self._holding.note_initial(await self._inner.initial_metadata())
        if self._holding.call.wants_trailing:
            self._holding.note_trailing(await self._inner.trailing_metadata())

    async def _judged(self) -> None:
        """Wait until everything is judged."""

    def _failed(self, error: Any) -> Any:
        """An error of the call as the program sees it."""
        if not isinstance(error, grpc.aio.AioRpcError):
            return error
        return self._holding.failed(error, without_verdict_aio)

    async def _instead(self) -> Replacement | None:
        """What replaced the response, once that is known."""
        if self._holding.instead is None and await self._inner.code() is grpc.StatusCode.OK:
            await self._judged()
        return self._holding.instead

    async def trailing_metadata(self) -> Any:
        instead = await self._instead()
        trailing = await self._inner.trailing_metadata()
        if self._holding.call.verdict is None and self._guarded.guard.config.accept_verdicts:
            return trailing  # a failed call, whose verdict was made behind
        return grpc.aio.Metadata(*with_verdict(trailing, self._holding.call, instead))

    async def initial_metadata(self) -> Any:
        return grpc.aio.Metadata(*without_verdicts(await self._inner.initial_metadata()))

    async def code(self) -> Any:
        instead = await self._instead()
        return await self._inner.code() if instead is None else instead.status

    async def details(self) -> Any:
        instead = await self._instead()
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
    """A call with one response message. Messages that come in one turn of the loop are judged together."""

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
        """The response, or what takes its place. Raises what the caller gets where that is an error."""
        try:
            message = await self._inner
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        if self._guarded.guard.config.accept_verdicts:
            self._holding.accept(await self._inner.trailing_metadata())
        await self._note_metadata()
        settled = await self._perform(self._holding.take(message, self._capture.content_of(message)))
        if settled.instead is None:
            return message
        if not settled.instead.responses:
            assert self._withheld is not None
            raise self._withheld
        return self._guarded.message(settled.instead.responses[0])


class _ManyResponses(_GuardedCall):
    """A stream of responses, read or iterated. In enforce, each message comes out once it is judged."""

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
            message = await self._inner.read()
        except BaseException as error:
            self._holding.on_closed()
            raise self._failed(error) from None
        if message is grpc.aio.EOF:
            self._finished = True
            await self._note_metadata()
            settled = await self._perform(self._holding.end())
            self._holding.on_closed()
        else:
            settled = await self._perform(self._holding.take(message, self._capture.content_of(message)))
        self._ready.extend(settled.messages)
        if settled.instead is not None:
            self._finished = True
            self._ready.extend(self._guarded.message(content) for content in settled.instead.responses)
            self._inner.cancel()


class _ManyRequests(_GuardedCall):
    """Requests that the program writes one by one."""

    async def write(self, request: Any) -> None:
        await self._inner.write(request)

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
    """The channel with its guarded methods judged. Calls of other methods pass unchanged."""

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
