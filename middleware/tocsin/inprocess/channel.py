"""What the sync and the aio guarded channel share: which calls are wrapped, and that all others pass."""

from __future__ import annotations

from typing import Any, ClassVar

from tocsin.inprocess.capture import deserializing, serializing
from tocsin.judgement.guard import Guard


class Guarded:
    """A guarded method of a wrapped channel: the callable with serializers that keep bytes, and how to make messages
    of bytes.
    """

    def __init__(self, inner: Any, guard: Guard, method: str, deserialize: Any) -> None:
        self.inner = inner
        self.guard = guard
        self.method = method
        self.deserialize = deserialize


class GuardedCalls:
    """The four kinds of call on a wrapped channel; guarded methods become callables of this channel's own."""

    guarded: ClassVar[dict[str, Any]]  # by kind, made of a Guarded

    def __init__(self, channel: Any, guard: Guard) -> None:
        self._channel = channel
        self._guard = guard

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrapped("unary_unary", method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrapped("unary_stream", method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrapped("stream_unary", method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrapped("stream_stream", method, *args, **kwargs)

    def _wrapped(
        self,
        kind: str,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        make = getattr(self._channel, kind)
        if method not in self._guard.methods:
            return make(method, request_serializer, response_deserializer)
        deserialize = deserializing(response_deserializer)
        inner = make(method, serializing(request_serializer), deserialize)
        return self.guarded[kind](Guarded(inner, self._guard, method, deserialize))
