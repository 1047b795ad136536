"""Calls of a guarded grpc.aio.Channel, as callers hold them: what their response is, once it is judged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import grpc

from tocsin.inprocess.capture import Received, with_verdict, without_verdicts
from tocsin.inprocess.channel import WrappedMethod
from tocsin.inprocess.holding import Holding, Settled
from tocsin.inprocess.withheld import status_code, withheld_aio, without_verdict_aio
from tocsin.judgement.actions import Actions, Ask, Outcome
from tocsin.judgement.batching import Batcher
from tocsin.judgement.policy import Replacement

Asker = Callable[[Ask], Awaitable[Outcome]]
_NOT_YET = object()


class _GuardedCall:
    """A call under way; what the four kinds have in common."""

    def __init__(
        self, inner: Any, holding: Holding, guarded: WrappedMethod, batcher: Batcher, received: Received, ask: Asker
    ) -> None:
        self._inner = inner
        self._received = received
        self._holding = holding
        self._guarded = guarded
        self._batcher = batcher
        self._ask = ask
        self._withheld: grpc.aio.AioRpcError | None = None

    async def _perform(self, actions: Actions) -> Settled:
        settled = await self._holding.perform_aio(
            actions, self._batcher, self._ask, alone=not self._holding.call.streams
        )
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
        return await self._inner.code() if instead is None else status_code(instead)

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
    """A call with one response message. Messages that come in one turn of the loop are judged together.

    Whoever awaits it waits for the channel's own call, and so cancels that as ever; but not what is done about the
    response once it is there, which goes on for others.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._outcome: asyncio.Task[Any] | None = None
        self._message: Any = _NOT_YET  # that goes on, where that took no waiting

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        if self._outcome is None and self._message is _NOT_YET:
            response = await self._response()
            if self._outcome is None and self._message is _NOT_YET:  # nobody else has begun with it meanwhile
                if self._passes(*response):
                    return self._message
                self._batcher.expected += 1  # until it is there to be judged with others of this turn
                self._outcome = asyncio.ensure_future(self._settled(*response))
        return self._message if self._outcome is None else await asyncio.shield(self._outcome)

    async def _response(self) -> tuple[Any, bytes | None]:
        """The message that comes, with its bytes. Raises what the caller gets where the call fails by itself."""
        self._batcher.expected += 1
        try:
            return self._received(await self._inner)
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        finally:
            self._batcher.expected -= 1

    def _passes(self, message: Any, content: bytes | None) -> bool:
        """Have a message that goes on in any case judged at once, where nothing has to be waited for: whether so."""
        holding = self._holding
        call = holding.call
        if holding.holds or content is None or self._guarded.guard.config.accept_verdicts or holding.wants_metadata:
            return False
        if call.streams:  # the program takes a stream for one message: what is judged then is a piece
            return False
        call.on_response_message(content)
        if not self._batcher.judge_alone(call):
            call.response = None  # for it is reported again, to be judged with others
            return False
        call.forget()
        self._message = message
        return True

    async def _judged(self) -> None:
        try:
            await self._result()
        except grpc.aio.AioRpcError:
            if self._withheld is None:
                raise

    async def _settled(self, message: Any, content: bytes | None) -> Any:
        """A response that has come, or what takes its place. Raises what the caller gets where that is an error."""
        try:
            if self._guarded.guard.config.accept_verdicts:
                self._holding.accept(await self._inner.trailing_metadata())
            await self._note_metadata()
        finally:
            self._batcher.expected -= 1
        settled = await self._perform(self._holding.take(message, content))
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
            settled = await self._perform(self._holding.take(*self._received(message)))
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
