"""A guarded grpc.Channel."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from tocsin.inprocess.asking import ask_fallback
from tocsin.inprocess.capture import Received, Sent, text_metadata, with_verdict
from tocsin.inprocess.channel import Guarded, GuardedCalls
from tocsin.inprocess.holding import Holding
from tocsin.inprocess.withheld import Withheld
from tocsin.judgement.acting import Ask
from tocsin.judgement.call import Call

Metadata = Sequence[tuple[str, Any]] | None
Asker = Callable[[Ask], bytes | None]


class _Callable:
    """What the four kinds have in common: beginning a call, and judging the only message of a response."""

    request_streams = False

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded

    def _begin(self, metadata: Metadata) -> Holding:
        call = self._guarded.guard.call(self._guarded.method, text_metadata(metadata))
        assert call is not None  # the channel has asked
        return Holding(self._guarded.guard, call, asks=not self.request_streams)

    def _sent(self, request: Any, call: Call) -> Any:
        """What the serializer is given."""
        return (Sent(one, call) for one in request) if self.request_streams else Sent(request, call)

    def _asker(self, request: Any, call: Call, timeout: float | None, metadata: Metadata, more: Any) -> Asker:
        """Sends the call's request once more."""
        guarded = self._guarded

        def ask(step: Ask) -> bytes | None:
            seconds = step.seconds if timeout is None else min(step.seconds, timeout)
            if step.upstream is not None:
                assert call.request is not None
                return ask_fallback(step, guarded.method, call.request, metadata, seconds)
            try:
                received: Received = guarded.inner(Sent(request, None), seconds, metadata, **more)
            except grpc.RpcError:
                return None
            return received.content

        return ask

    def _only(self, holding: Holding, received: Received, inner: Any, ask: Asker) -> Any:
        """The message that goes on as a response of one message. Raises Withheld."""
        settled = holding.settle(holding.take(received), ask)
        if settled.instead is None:
            return received.message
        if not settled.instead.responses:
            raise Withheld(settled.instead, holding.call, inner)
        return self._guarded.deserialize(settled.instead.responses[0]).message


class _OneResponse(_Callable):
    """Calls whose response is one message: called, called with the call object, or as a future."""

    def __call__(self, request: Any, timeout: float | None = None, metadata: Metadata = None, **more: Any) -> Any:
        return self.with_call(request, timeout, metadata, **more)[0]

    def with_call(
        self, request: Any, timeout: float | None = None, metadata: Metadata = None, **more: Any
    ) -> tuple[Any, Any]:
        holding = self._begin(metadata)
        call = holding.call
        received, inner = self._guarded.inner.with_call(self._sent(request, call), timeout, metadata, **more)
        ask = self._asker(request, call, timeout, metadata, more)
        return self._only(holding, received, inner, ask), GuardedCall(inner, holding)

    def future(self, request: Any, timeout: float | None = None, metadata: Metadata = None, **more: Any) -> Any:
        holding = self._begin(metadata)
        call = holding.call
        inner = self._guarded.inner.future(self._sent(request, call), timeout, metadata, **more)
        ask = self._asker(request, call, timeout, metadata, more)
        return GuardedFuture(inner, holding, lambda received: self._only(holding, received, inner, ask))


class _ManyResponses(_Callable):
    """Calls whose response is a stream."""

    def __call__(self, request: Any, timeout: float | None = None, metadata: Metadata = None, **more: Any) -> Any:
        holding = self._begin(metadata)
        inner = self._guarded.inner(self._sent(request, holding.call), timeout, metadata, **more)
        return GuardedStream(inner, holding, self._guarded)


class UnaryUnary(_OneResponse, grpc.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """A guarded method of one request and one response."""


class StreamUnary(_OneResponse, grpc.StreamUnaryMultiCallable):  # type: ignore[misc]
    """A guarded method of many requests and one response."""

    request_streams = True


class UnaryStream(_ManyResponses, grpc.UnaryStreamMultiCallable):  # type: ignore[misc]
    """A guarded method of one request and many responses."""


class StreamStream(_ManyResponses, grpc.StreamStreamMultiCallable):  # type: ignore[misc]
    """A guarded method of many requests and many responses."""

    request_streams = True


class GuardedCall(grpc.Call):  # type: ignore[misc]
    """A call whose trailing metadata carries the verdict."""

    def __init__(self, inner: Any, holding: Holding) -> None:
        self._inner = inner
        self._holding = holding

    def trailing_metadata(self) -> Any:
        return tuple(with_verdict(self._inner.trailing_metadata(), self._holding.call, self._holding.instead))

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

    def __init__(self, inner: Any, holding: Holding, judge: Callable[[Received], Any]) -> None:
        super().__init__(inner, holding)
        self._judge = judge
        self._judged = False
        self._result: Any = None
        self._withheld: Withheld | None = None

    def result(self, timeout: float | None = None) -> Any:
        received = self._inner.result(timeout)
        if not self._judged:
            self._judged = True
            try:
                self._result = self._judge(received)
            except Withheld as withheld:
                self._withheld = withheld
        if self._withheld is not None:
            raise self._withheld
        return self._result

    def trailing_metadata(self) -> Any:
        failed = self.exception()
        return self._withheld.trailing_metadata() if self._withheld and failed else super().trailing_metadata()

    def code(self) -> Any:
        return self._withheld.code() if self._withheld is not None else super().code()

    def details(self) -> Any:
        return self._withheld.details() if self._withheld is not None else super().details()

    def exception(self, timeout: float | None = None) -> Any:
        failed = self._inner.exception(timeout)
        if failed is not None:
            return failed
        try:
            self.result(timeout)
        except Withheld as withheld:
            return withheld
        return None

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


class GuardedStream(GuardedCall, grpc.RpcError):  # type: ignore[misc]
    """A stream of responses, judged as the guard says; in enforce, each message once its judgement is there."""

    def __init__(self, inner: Any, holding: Holding, guarded: Guarded) -> None:
        super().__init__(inner, holding)
        self._guarded = guarded
        self._ready: deque[Any] = deque()
        self._withheld: Withheld | None = None
        self._finished = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while not self._ready:
            if self._withheld is not None:
                raise self._withheld
            if self._finished:
                raise StopIteration
            self._advance()
        return self._ready.popleft()

    def _advance(self) -> None:
        """Take one more message, or the end."""
        try:
            pieces = self._holding.take(next(self._inner))
        except StopIteration:
            self._finished = True
            pieces = self._holding.end()
        except BaseException:
            self._holding.over()
            raise
        settled = self._holding.settle(pieces, lambda step: None)
        if self._finished:
            self._holding.over()
        self._ready.extend(received.message for received in settled.messages)
        if settled.instead is None:
            return
        self._finished = True
        self._ready.extend(self._guarded.deserialize(one).message for one in settled.instead.responses)
        if not settled.instead.responses:
            self._withheld = Withheld(settled.instead, self._holding.call, self._inner)
        self._inner.cancel()

    def code(self) -> Any:
        instead = self._holding.instead
        return super().code() if instead is None else instead.status

    def details(self) -> Any:
        instead = self._holding.instead
        return super().details() if instead is None else instead.message


class GuardedChannel(GuardedCalls, grpc.Channel):  # type: ignore[misc]
    """The same channel, calls of guarded methods judged; those of other methods pass as they are."""

    guarded = {  # noqa: RUF012 (one for all)
        "unary_unary": UnaryUnary,
        "unary_stream": UnaryStream,
        "stream_unary": StreamUnary,
        "stream_stream": StreamStream,
    }

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
