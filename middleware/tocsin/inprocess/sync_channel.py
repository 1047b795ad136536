"""A guarded grpc.Channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from tocsin.inprocess.capture import Received, Sent, text_metadata, with_verdict
from tocsin.inprocess.channel import GuardedCalls
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard


class GuardedCallable(grpc.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """A guarded method: called, called with its call object, or as a future."""

    def __init__(self, inner: Any, guard: Guard, method: str) -> None:
        self._inner = inner
        self._guard = guard
        self._method = method

    def __call__(self, request: Any, timeout: float | None = None, metadata: Any = None, **kwargs: Any) -> Any:
        return self.with_call(request, timeout, metadata, **kwargs)[0]

    def with_call(
        self, request: Any, timeout: float | None = None, metadata: Any = None, **kwargs: Any
    ) -> tuple[Any, Any]:
        call = self._begin(metadata)
        received, inner = self._inner.with_call(Sent(request, call), timeout, metadata, **kwargs)
        return self._judge(call, received), GuardedCall(inner, call)

    def future(self, request: Any, timeout: float | None = None, metadata: Any = None, **kwargs: Any) -> Any:
        call = self._begin(metadata)
        return GuardedFuture(self._inner.future(Sent(request, call), timeout, metadata, **kwargs), call, self._judge)

    def _begin(self, metadata: Sequence[tuple[str, Any]] | None) -> Call:
        call = self._guard.call(self._method, text_metadata(metadata))
        assert call is not None  # unary_unary has asked
        return call

    def _judge(self, call: Call, received: Received) -> Any:
        if call.verdict is None:
            call.response = received.content
            self._guard.judge([call])
        return received.message


class GuardedCall(grpc.Call):  # type: ignore[misc]
    """A finished call whose trailing metadata carries the verdict."""

    def __init__(self, inner: Any, call: Call) -> None:
        self._inner = inner
        self._call = call

    def trailing_metadata(self) -> Any:
        return tuple(with_verdict(self._inner.trailing_metadata(), self._call))

    def initial_metadata(self) -> Any:
        return self._inner.initial_metadata()

    def code(self) -> Any:
        return self._inner.code()

    def details(self) -> Any:
        return self._inner.details()

    def is_active(self) -> bool:
        return bool(self._inner.is_active())

    def time_remaining(self) -> Any:
        return self._inner.time_remaining()

    def cancel(self) -> Any:
        return self._inner.cancel()

    def add_callback(self, callback: Any) -> Any:
        return self._inner.add_callback(callback)


class GuardedFuture(GuardedCall, grpc.Future):  # type: ignore[misc]
    """A call under way: judged once, when its result is first asked for."""

    def __init__(self, inner: Any, call: Call, judge: Any) -> None:
        super().__init__(inner, call)
        self._judge = judge

    def result(self, timeout: float | None = None) -> Any:
        return self._judge(self._call, self._inner.result(timeout))

    def trailing_metadata(self) -> Any:
        if self._inner.exception() is None:
            self.result()
        return super().trailing_metadata()

    def exception(self, timeout: float | None = None) -> Any:
        return self._inner.exception(timeout)

    def traceback(self, timeout: float | None = None) -> Any:
        return self._inner.traceback(timeout)

    def cancelled(self) -> bool:
        return bool(self._inner.cancelled())

    def running(self) -> bool:
        return bool(self._inner.running())

    def done(self) -> bool:
        return bool(self._inner.done())

    def add_done_callback(self, fn: Any) -> None:
        self._inner.add_done_callback(lambda _: fn(self))


class GuardedChannel(GuardedCalls, grpc.Channel):  # type: ignore[misc]
    """The same channel, its unary calls judged; calls of other kinds and methods pass as they are."""

    guarded = GuardedCallable

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> GuardedChannel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
