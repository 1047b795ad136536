"""What the sync and the aio guarded channel share: which calls are wrapped, and that all others pass."""

from __future__ import annotations

from typing import Any, ClassVar

from tocsin.inprocess.capture import deserializing, serializing
from tocsin.judgement.guard import Guard


class GuardedCalls:
    """The four kinds of call on a wrapped channel; unary ones of guarded methods become `guarded`."""

    guarded: ClassVar[type[Any]]  # made of the wrapped callable, the guard, and the method

    def __init__(self, channel: Any, guard: Guard) -> None:
        self._channel = channel
        self._guard = guard

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        if self._guard.call(method, {}) is None:
            return self._channel.unary_unary(method, request_serializer, response_deserializer)
        inner = self._channel.unary_unary(method, serializing(request_serializer), deserializing(response_deserializer))
        return self.guarded(inner, self._guard, method)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.unary_stream(*args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.stream_stream(*args, **kwargs)
