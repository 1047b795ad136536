"""A server interceptor, for grpc.server and grpc.aio.server alike, and for all four kinds of call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import grpc

from tocsin.inprocess.capture import text_metadata
from tocsin.inprocess.served_call import ServedCall
from tocsin.judgement.batching import Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard

_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class GuardInterceptor(grpc.aio.ServerInterceptor, grpc.ServerInterceptor):  # type: ignore[misc]
    """Judges what guarded methods answer. In annotate and enforce the verdict is added to the trailing metadata; in
    enforce, answers wait for it, and go out or do not.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._batcher: Batcher | None = None

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        metadata = text_metadata(handler_call_details.invocation_metadata, self._guard.score_keys)
        call = self._guard.call(handler_call_details.method, metadata)
        handler = continuation(handler_call_details)
        if inspect.isawaitable(handler):
            return self._wrap_later(handler, call)
        return self._wrap(handler, call)

    async def _wrap_later(self, handler: Any, call: Call | None) -> Any:
        return self._wrap(await handler, call)

    def _wrap(self, handler: Any, call: Call | None) -> Any:
        """The handler with its responses judged, or itself where no model guards the call."""
        if handler is None or call is None or handler.response_streaming != call.streams:
            return handler
        served = ServedCall(self._guard, self._running_batcher, call, handler)
        behaviour: Callable[[Any, Any], Any]
        if served.serves_aio:
            behaviour = served.stream_aio if call.streams else served.unary_aio
        else:
            behaviour = served.stream if call.streams else served.unary
        return _MAKERS[bool(handler.request_streaming), call.streams](
            behaviour,
            request_deserializer=served.requests.deserialize,
            response_serializer=served.serialize,
        )

    def _running_batcher(self) -> Batcher:
        """Judges in the running event loop."""
        if self._batcher is None:
            self._batcher = Batcher(self._guard)
        return self._batcher
