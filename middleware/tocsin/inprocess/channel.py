"""Code shared by the sync and the aio guarded channel: which calls are guarded; all others pass."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from tocsin.errors import ConfigError
from tocsin.inprocess.capture import Capture, Codec, Paired, Received, of_pair
from tocsin.judgement.actions import Ask
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.outbound import Sending, Target, forward_metadata, sending_of
from tocsin.protocols.http.routes import is_route


def require_grpc(guard: Guard, position: str) -> None:
    """Raises ConfigError where no model is served over gRPC, because the position would judge nothing."""
    if all(is_route(method) for method in guard.methods):
        names = ", ".join(f"{name} ({model.config.protocol})" for name, model in guard.models.items())
        raise ConfigError(f"{position} judges protocols of gRPC, such as `oip`, and no model has one: {names}")


class WrappedMethod:
    """A guarded method of a wrapped channel. Each call gets its own callable, whose codecs know the call.

    Making one takes longer than all else that is done about a call. Where nobody sees what is given to it, calls of one
    request and one response have one callable together, which takes and gives pairs (`paired`).
    """

    def __init__(
        self,
        make: Any,
        guard: Guard,
        method: str,
        serializer: Codec,
        deserializer: Codec,
        paired: Paired | None = None,
    ) -> None:
        self._make = make
        self._serializer = serializer
        self._deserializer = deserializer
        self.guard = guard
        self.method = method
        self._shared = None if paired is None else make(method, paired.serialize, paired.deserialize)

    def begin(self, call: Call, request: Any) -> tuple[Any, Any, Received]:
        """A callable of the wrapped channel for one call, what to give it, and how to take what it gives."""
        if self._shared is not None:
            return self._shared, (request, call), of_pair
        callable_, capture = self.open(call)
        return callable_, request, capture.received

    def open(self, call: Call | None) -> tuple[Any, Capture]:
        """A callable of the wrapped channel for one call or one more try, and its capture."""
        capture = Capture(self._serializer, self._deserializer, call)
        return self._make(self.method, capture.serialize, capture.deserialize), capture

    def message(self, content: bytes) -> Any:
        """Decode a message into the program's own type."""
        return content if self._deserializer is None else self._deserializer(content)


class SentRequest:
    """How a call was made, to make it again within what is left of its deadline."""

    def __init__(self, guarded: WrappedMethod, timeout: float | None, metadata: Any) -> None:
        self._largest = int(guarded.guard.config.max_message)
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._metadata = metadata

    def seconds(self, step: Ask) -> float:
        """How long another try may take."""
        return step.seconds if self._deadline is None else min(step.seconds, self._deadline - time.monotonic())

    def to_fallback(self, step: Ask) -> tuple[Target, Sending]:
        """The same request to the fallback's address."""
        assert step.upstream is not None
        sending = sending_of(step, forward_metadata(self._metadata), self.seconds(step), self._largest)
        return Target(step.upstream, step.tls), sending


class GuardedCalls:
    """The four kinds of call on a wrapped channel. Guarded methods become guarded callables."""

    guarded: ClassVar[dict[str, Any]]  # by kind, made of a WrappedMethod
    none_fails: ClassVar[bool]  # whether grpcio takes None from a deserializer for a failure

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
        codecs, paired = (request_serializer, response_deserializer), None
        if kind == "unary_unary" and _is_bare(self._channel):
            paired = Paired(*codecs, none_fails=self.none_fails)
        return self.guarded[kind](WrappedMethod(make, self._guard, method, *codecs, paired))


def _is_bare(channel: Any) -> bool:
    """Whether calls of one request and one response go to grpcio at once: its own channel, without interceptors, and
    with nothing put in the place of its method.
    """
    if "unary_unary" in vars(channel):
        return False
    module = type(channel).__module__
    if module == "grpc._channel":
        return True
    return module == "grpc.aio._channel" and getattr(channel, "_unary_unary_interceptors", None) == []
