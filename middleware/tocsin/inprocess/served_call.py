"""One guarded call on a server, of any of the four kinds, in threads or in an event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tocsin.inprocess.capture import Capture, verdicts_in, with_verdict, without_verdicts
from tocsin.inprocess.holding import Holding, Settled
from tocsin.inprocess.server_metadata import note_trailing, noted_context
from tocsin.inprocess.withheld import status_code
from tocsin.judgement.actions import Actions, Ask, Outcome
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.outbound import Sending, Target, aio_channels, channels, forward_metadata, sending_of
from tocsin.verdict import USUAL_LIST_SIZE

_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


class _Encoded(bytes):
    """A response of which there are only bytes, not a message of the server's own."""


class ServedCall:
    """One call on the server. Whoever stands before or behind sees the server's own messages.

    `batcher` gives the one of the running event loop.
    """

    def __init__(self, guard: Guard, batcher: Callable[[], Batcher], call: Call, handler: Any) -> None:
        kind = self._requests_stream, self._streams = bool(handler.request_streaming), bool(handler.response_streaming)
        self._guard = guard
        self._batcher = batcher
        self._call = call
        self._serializer = handler.response_serializer
        self._holding = Holding(guard, call, asks=not kind[0])
        self._responses = Capture(handler.response_serializer, None)
        self._inner = getattr(handler, _KINDS[kind])
        self.requests = Capture(None, handler.request_deserializer)

    @property
    def serves_aio(self) -> bool:
        """Whether the handler is of grpc.aio."""
        return _is_async(self._inner)

    def serialize(self, response: Any) -> bytes:
        """A response's bytes, for grpcio: those that were judged, unless somebody has put another in its place."""
        if isinstance(response, _Encoded):
            return response
        content = self._responses.recall(response)
        return self._responses.serialize(response) if content is None else content

    def unary(self, request: Any, context: Any) -> Any:
        """Answer with one message, judged."""
        context = noted_context(context, self._holding)
        try:
            response = self._inner(self._noted(request), context)
        except BaseException:
            self._strip(context)
            raise
        note_trailing(context, self._holding)
        settled = self._holding.perform(self._take(response), self._asker(request, context))
        self._annotate(context, settled)
        if settled.instead is None:
            return response
        if not settled.instead.responses:
            context.abort(status_code(settled.instead), settled.instead.message)
        return self._message(settled.instead.responses[0], response)

    async def unary_aio(self, request: Any, context: Any) -> Any:
        """The same in an event loop."""
        context = noted_context(context, self._holding)
        response = await self._inner(self._noted_aio(request), context)
        note_trailing(context, self._holding)
        ask = self._asker_aio(request, context)
        settled = await self._holding.perform_aio(self._take(response), self._batcher(), ask)
        self._annotate(context, settled)
        if settled.instead is None:
            return response
        if not settled.instead.responses:
            await context.abort(status_code(settled.instead), settled.instead.message)
        return self._message(settled.instead.responses[0], response)

    def stream(self, request: Any, context: Any) -> Iterator[Any]:
        """Answer with a stream, each message once it may go."""
        context = noted_context(context, self._holding)
        ask, response, ended = self._asker(request, context), None, False
        try:
            responses = iter(self._inner(self._noted(request), context))
            while not ended:
                try:
                    response = next(responses)
                    actions = self._take(response)
                except StopIteration:
                    note_trailing(context, self._holding)
                    ended, actions = True, self._holding.end()
                settled = self._holding.perform(actions, ask)
                yield from settled.messages
                if settled.instead is not None:
                    self._annotate(context, settled)
                    if not settled.instead.responses:
                        context.abort(status_code(settled.instead), settled.instead.message)
                    yield from (self._message(content, response) for content in settled.instead.responses)
                    return
            self._annotate(context, Settled([]))
        except Exception:
            self._strip(context)
            raise
        finally:
            self._holding.on_closed()

    async def stream_aio(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The same in an event loop."""
        context = noted_context(context, self._holding)
        ask, response, ended = self._asker_aio(request, context), None, False
        try:
            responses = aiter(self._inner(self._noted_aio(request), context))
            while not ended:
                try:
                    response = await anext(responses)
                    actions = self._take(response)
                except StopAsyncIteration:
                    note_trailing(context, self._holding)
                    ended, actions = True, self._holding.end()
                settled = await self._holding.perform_aio(actions, self._batcher(), ask)
                for message in settled.messages:
                    yield message
                if settled.instead is not None:
                    self._annotate(context, settled)
                    if not settled.instead.responses:
                        await context.abort(status_code(settled.instead), settled.instead.message)
                    for content in settled.instead.responses:
                        yield self._message(content, response)
                    return
            self._annotate(context, Settled([]))
        finally:
            self._holding.on_closed()

    def _take(self, response: Any) -> Actions:
        content = self._responses.serialize(response)
        self._responses.remember(response, content)
        return self._holding.take(response, content)

    def _message(self, content: bytes, like: Any) -> Any:
        """A message of the server's own with these bytes: of the type that it answers with."""
        self._responses.recall(like)
        if isinstance(like, bytes):
            return content
        parse = getattr(type(like), "FromString", None)
        if parse is None:
            return _Encoded(content)
        try:
            message = parse(content)
        except DecodeError:
            return _Encoded(content)
        self._responses.remember(message, content)
        return message

    def _noted(self, request: Any) -> Any:
        """The handler's request, or its requests."""
        if not self._requests_stream:
            self._note(request)
            return request
        return self._each(request)

    def _each(self, requests: Iterator[Any]) -> Iterator[Any]:
        for request in requests:
            self._note(request)
            yield request

    def _noted_aio(self, request: Any) -> Any:
        if not self._requests_stream:
            return self._noted(request)
        return self._each_aio(request)

    async def _each_aio(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._note(request)
            yield request

    def _note(self, request: Any) -> None:
        content = self.requests.content_of(request)
        if content is not None:
            self._call.on_request_message(content)

    def _to_fallback(self, step: Ask, context: Any) -> tuple[Target, Sending]:
        """The call's request to the fallback's address, within what is left of its deadline."""
        assert step.upstream is not None
        remaining = context.time_remaining()
        seconds = step.seconds if remaining is None else min(step.seconds, remaining)
        metadata, largest = forward_metadata(context.invocation_metadata()), int(self._guard.config.max_message)
        return Target(step.upstream, step.tls), sending_of(step, metadata, seconds, largest)

    def _asker(self, request: Any, context: Any) -> Callable[[Ask], Outcome]:
        """How to get another answer: from the fallback, or from the handler once more."""

        def ask(step: Ask) -> Outcome:
            if step.upstream is not None:
                return channels.send(*self._to_fallback(step, context))
            before = context.code()
            try:
                response = self._inner(request, context)
                return [self._responses.serialize(message) for message in (response if self._streams else [response])]
            except Exception:
                if context.code() is not before:  # the handler has ended the call
                    raise
                return None

        return ask

    def _asker_aio(self, request: Any, context: Any) -> Callable[[Ask], Awaitable[Outcome]]:
        """The same in an event loop."""

        async def again() -> list[bytes]:
            response = self._inner(request, context)
            responses = [message async for message in response] if self._streams else [await response]
            return [self._responses.serialize(message) for message in responses]

        async def ask(step: Ask) -> Outcome:
            if step.upstream is not None:
                return await aio_channels().send(*self._to_fallback(step, context))
            try:
                return await asyncio.wait_for(again(), step.seconds)
            except grpc.aio.AbortError:  # the handler has ended the call
                raise
            except Exception:
                return None

        return ask

    def _annotate(self, context: Any, settled: Settled) -> None:
        if self._guard.config.mode == "observe":
            self._strip(context)
            return
        trailing = context.trailing_metadata()
        entries = with_verdict(trailing, self._call, settled.instead, limit=USUAL_LIST_SIZE)
        context.set_trailing_metadata(tuple(entries))

    def _strip(self, context: Any) -> None:
        """Take out a verdict that the handler wrote, unless it is this call's own."""
        trailing = context.trailing_metadata()
        ours = self._call.verdict is not None and self._guard.config.mode != "observe"
        if not ours and verdicts_in(trailing):
            context.set_trailing_metadata(tuple(without_verdicts(trailing)))


def _is_async(behaviour: Any) -> bool:
    called = type(behaviour).__call__
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (behaviour, called)
    )
