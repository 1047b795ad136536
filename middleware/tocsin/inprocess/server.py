"""A server interceptor, for grpc.server and grpc.aio.server alike, and for all four kinds of call."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc

from tocsin.inprocess.asking import ask_fallback, ask_fallback_aio
from tocsin.inprocess.capture import Received, deserializing, text_metadata, with_verdict
from tocsin.inprocess.holding import Holding, Settled
from tocsin.judgement.acting import Ask
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard

_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


class GuardInterceptor(grpc.aio.ServerInterceptor, grpc.ServerInterceptor):  # type: ignore[misc]
    """Judges what guarded methods answer. In annotate and enforce the verdict is added to the trailing metadata; in
    enforce, answers wait for it, and go out or do not.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._batcher: Batcher | None = None

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        call = self._guard.call(handler_call_details.method, text_metadata(handler_call_details.invocation_metadata))
        found = continuation(handler_call_details)
        if inspect.isawaitable(found):
            return self._wrap_later(found, call)
        return self._wrap(found, call)

    async def _wrap_later(self, found: Any, call: Call | None) -> Any:
        return self._wrap(await found, call)

    def _wrap(self, handler: Any, call: Call | None) -> Any:
        if handler is None or call is None or handler.response_streaming != call.streams:
            return handler
        kind = bool(handler.request_streaming), bool(handler.response_streaming)
        inner = getattr(handler, _KINDS[kind])
        served = _Served(self, call, inner, handler.response_serializer, asks=not kind[0])
        behaviour: Callable[[Any, Any], Any]
        if _is_async(inner):
            behaviour = served.stream_aio if kind[1] else served.one_aio
        else:
            behaviour = served.stream if kind[1] else served.one
        return _MAKERS[kind](
            behaviour,
            request_deserializer=deserializing(handler.request_deserializer),
            response_serializer=lambda content: content,
        )

    @property
    def guard(self) -> Guard:
        """Whose verdicts these are."""
        return self._guard

    @property
    def batcher(self) -> Batcher:
        """Judges in the running event loop."""
        if self._batcher is None:
            self._batcher = Batcher(self._guard)
        return self._batcher


class _Served:
    """One call on the server."""

    def __init__(self, by: GuardInterceptor, call: Call, inner: Any, serialize: Any, asks: bool) -> None:
        self._by = by
        self._call = call
        self._inner = inner
        self._serialize = serialize
        self._holding = Holding(by.guard, call, asks)

    def one(self, request: Any, context: Any) -> bytes:
        received = self._received(self._inner(self._asked(request), context))
        settled = self._holding.settle(self._holding.take(received), self._asker(request, context))
        if settled.instead is not None and not settled.instead.responses:
            self._annotate(context, settled)
            context.abort(settled.instead.status, settled.instead.message)
        self._annotate(context, settled)
        return received.content if settled.instead is None else settled.instead.responses[0]

    async def one_aio(self, request: Any, context: Any) -> bytes:
        received = self._received(await self._inner(self._asked_aio(request), context))
        ask = self._asker_aio(request, context)
        settled = await self._holding.settle_aio(self._holding.take(received), self._by.batcher, ask)
        self._annotate(context, settled)
        if settled.instead is not None and not settled.instead.responses:
            await context.abort(settled.instead.status, settled.instead.message)
        return received.content if settled.instead is None else settled.instead.responses[0]

    def stream(self, request: Any, context: Any) -> Iterator[bytes]:
        answers = iter(self._inner(self._asked(request), context))
        ended = False
        try:
            while not ended:
                try:
                    pieces = self._holding.take(self._received(next(answers)))
                except StopIteration:
                    ended, pieces = True, self._holding.end()
                settled = self._holding.settle(pieces, lambda step: None)
                yield from (received.content for received in settled.messages)
                if settled.instead is not None:
                    self._annotate(context, settled)
                    if not settled.instead.responses:
                        context.abort(settled.instead.status, settled.instead.message)
                    yield from settled.instead.responses
                    return
            self._annotate(context, Settled([]))
        finally:
            self._holding.over()

    async def stream_aio(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        answers = aiter(self._inner(self._asked_aio(request), context))
        ended = False
        try:
            while not ended:
                try:
                    pieces = self._holding.take(self._received(await anext(answers)))
                except StopAsyncIteration:
                    ended, pieces = True, self._holding.end()
                settled = await self._holding.settle_aio(pieces, self._by.batcher, _nobody)
                for received in settled.messages:
                    yield received.content
                if settled.instead is not None:
                    self._annotate(context, settled)
                    if not settled.instead.responses:
                        await context.abort(settled.instead.status, settled.instead.message)
                    for response in settled.instead.responses:
                        yield response
                    return
            self._annotate(context, Settled([]))
        finally:
            self._holding.over()

    def _received(self, response: Any) -> Received:
        content: bytes = self._serialize(response) if self._serialize is not None else response
        return Received(None, content)

    def _asked(self, request: Any) -> Any:
        """The handler's request, or its requests."""
        if isinstance(request, Received):
            self._call.asked(request.content)
            return request.message
        return self._each(request)

    def _each(self, requests: Iterator[Received]) -> Iterator[Any]:
        for request in requests:
            self._call.asked(request.content)
            yield request.message

    def _asked_aio(self, request: Any) -> Any:
        if isinstance(request, Received):
            return self._asked(request)
        return self._each_aio(request)

    async def _each_aio(self, requests: AsyncIterator[Received]) -> AsyncIterator[Any]:
        async for request in requests:
            self._call.asked(request.content)
            yield request.message

    def _asker(self, request: Any, context: Any) -> Callable[[Ask], bytes | None]:
        def ask(step: Ask) -> bytes | None:
            if step.upstream is not None:
                metadata = context.invocation_metadata()
                return ask_fallback(step, self._call.method, request.content, metadata, step.seconds)
            return self._received(self._inner(request.message, context)).content

        return ask

    def _asker_aio(self, request: Any, context: Any) -> Callable[[Ask], Awaitable[bytes | None]]:
        async def ask(step: Ask) -> bytes | None:
            if step.upstream is not None:
                metadata = context.invocation_metadata()
                return await ask_fallback_aio(step, self._call.method, request.content, metadata, step.seconds)
            return self._received(await self._inner(request.message, context)).content

        return ask

    def _annotate(self, context: Any, settled: Settled) -> None:
        if self._by.guard.config.mode != "observe":
            told = with_verdict(context.trailing_metadata(), self._call, settled.instead)
            context.set_trailing_metadata(tuple(told))


async def _nobody(step: Ask) -> None:
    """A stream's request is not sent again."""
    del step


def _is_async(behaviour: Any) -> bool:
    called = type(behaviour).__call__
    return any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in (behaviour, called))
