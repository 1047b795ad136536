"""A server interceptor, for grpc.server and grpc.aio.server alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import grpc

from tocsin.inprocess.capture import Received, deserializing, text_metadata, with_verdict
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard


class GuardInterceptor(grpc.aio.ServerInterceptor, grpc.ServerInterceptor):  # type: ignore[misc]
    """Judges what guarded unary methods answer and, in mode annotate, adds the verdict to the trailing metadata."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._annotates = guard.config.mode == "annotate"
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
        if handler is None or call is None or handler.request_streaming or handler.response_streaming:
            return handler
        inner, serialize = handler.unary_unary, handler.response_serializer
        behaviour = self._aio(inner, serialize, call) if _is_async(inner) else self._sync(inner, serialize, call)
        return grpc.unary_unary_rpc_method_handler(
            behaviour,
            request_deserializer=deserializing(handler.request_deserializer),
            response_serializer=lambda content: content,
        )

    def _sync(self, inner: Any, serialize: Any, call: Call) -> Any:
        def behave(request: Received, context: Any) -> bytes:
            call.request = request.content
            response = inner(request.message, context)
            content: bytes = serialize(response) if serialize is not None else response
            call.response = content
            self._guard.judge([call])
            self._annotate(context, call)
            return content

        return behave

    def _aio(self, inner: Any, serialize: Any, call: Call) -> Any:
        async def behave(request: Received, context: Any) -> bytes:
            call.request = request.content
            response = await inner(request.message, context)
            content: bytes = serialize(response) if serialize is not None else response
            call.response = content
            if self._batcher is None:
                self._batcher = Batcher(self._guard)
            await self._batcher.judged(call)
            self._annotate(context, call)
            return content

        return behave

    def _annotate(self, context: Any, call: Call) -> None:
        if self._annotates:
            context.set_trailing_metadata(tuple(with_verdict(context.trailing_metadata(), call)))


def _is_async(behaviour: Any) -> bool:
    return inspect.iscoroutinefunction(behaviour) or inspect.iscoroutinefunction(type(behaviour).__call__)
