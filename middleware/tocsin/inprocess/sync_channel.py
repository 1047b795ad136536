"""A guarded grpc.Channel, and what it begins calls with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from tocsin.inprocess.capture import text_metadata
from tocsin.inprocess.channel import GuardedCalls, SentRequest, WrappedMethod
from tocsin.inprocess.holding import Holding
from tocsin.inprocess.sync_calls import Asker, GuardedCall, GuardedFuture, GuardedStream, note_metadata
from tocsin.inprocess.withheld import Withheld, without_verdict
from tocsin.judgement.actions import Ask, Outcome
from tocsin.outbound import channels

Metadata = Sequence[tuple[str, Any]] | None


class _Callable:
    """What the four kinds have in common: beginning a call, and judging the only message of a response."""

    request_streams = False

    def __init__(self, guarded: WrappedMethod) -> None:
        self._guarded = guarded

    def _begin(self, metadata: Metadata) -> Holding:
        call = self._guarded.guard.call(self._guarded.method, text_metadata(metadata, self._guarded.guard.score_keys))
        assert call is not None  # the channel has asked
        return Holding(self._guarded.guard, call, asks=not self.request_streams)

    def _asker(self, holding: Holding, message: Any, timeout: float | None, metadata: Metadata, more: Any) -> Asker:
        """Sends the call's request once more."""
        guarded, streams = self._guarded, holding.call.reads.streams
        request = SentRequest(guarded, timeout, metadata)

        def ask(step: Ask) -> Outcome:
            if step.upstream is not None:
                return channels.send(*request.to_fallback(step))
            seconds = request.seconds(step)
            if seconds <= 0:
                return None
            inner, capture = guarded.open(None)
            try:
                response = inner(message, seconds, metadata, **more)
                contents = [capture.content_of(answer) for answer in (response if streams else [response])]
            except grpc.RpcError:
                return None
            present = [content for content in contents if content is not None]
            return present if len(present) == len(contents) else None

        return ask

    def _only(self, holding: Holding, message: Any, content: bytes | None, inner: Any, ask: Asker) -> Any:
        """The message that goes on as a response of one message. Raises Withheld."""
        if self._guarded.guard.config.accept_verdicts:
            holding.accept(inner.trailing_metadata())
        note_metadata(holding, inner)
        if not holding.holds:
            holding.pass_only(message, content)
            return message
        settled = holding.perform(holding.take(message, content), ask)
        if settled.instead is None:
            return message
        if not settled.instead.responses:
            raise Withheld(settled.instead, holding.call, inner)
        return self._guarded.message(settled.instead.responses[0])


class _OneResponse(_Callable):
    """Calls whose response is one message: called, called with the call object, or as a future."""

    def __call__(self, request: Any, timeout: float | None = None, metadata: Metadata = None, **more: Any) -> Any:
        return self.with_call(request, timeout, metadata, **more)[0]

    def with_call(
        self, request: Any, timeout: float | None = None, metadata: Metadata = None, **more: Any
    ) -> tuple[Any, Any]:
        holding = self._begin(metadata)
        ask = self._asker(holding, request, timeout, metadata, more)
        begin, sent, received = self._guarded.begin(holding.call, request)
        try:
            message, inner = begin.with_call(sent, timeout, metadata, **more)
        except grpc.RpcError as error:
            raise holding.failed(error, without_verdict) from None
        return self._only(holding, *received(message), inner, ask), GuardedCall(inner, holding)

    def future(self, request: Any, timeout: float | None = None, metadata: Metadata = None, **more: Any) -> Any:
        holding = self._begin(metadata)
        ask = self._asker(holding, request, timeout, metadata, more)
        begin, sent, received = self._guarded.begin(holding.call, request)
        inner = begin.future(sent, timeout, metadata, **more)
        return GuardedFuture(inner, holding, lambda message: self._only(holding, *received(message), inner, ask))


class _ManyResponses(_Callable):
    """Calls whose response is a stream."""

    def __call__(self, request: Any, timeout: float | None = None, metadata: Metadata = None, **more: Any) -> Any:
        holding = self._begin(metadata)
        ask = self._asker(holding, request, timeout, metadata, more)
        callable_, capture = self._guarded.open(holding.call)
        inner = callable_(request, timeout, metadata, **more)
        return GuardedStream(inner, holding, self._guarded, capture, ask)


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


class GuardedChannel(GuardedCalls, grpc.Channel):  # type: ignore[misc]
    """The same channel, calls of guarded methods judged; those of other methods pass as they are."""

    guarded = {  # noqa: RUF012 (one for all)
        "unary_unary": UnaryUnary,
        "unary_stream": UnaryStream,
        "stream_unary": StreamUnary,
        "stream_stream": StreamStream,
    }
    none_fails = True

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
