"""A guarded grpc.aio.Channel, and what it begins calls with."""

from __future__ import annotations

from typing import Any

import grpc

from tocsin.inprocess.aio_calls import (
    Asker,
    GuardedStreamStream,
    GuardedStreamUnary,
    GuardedUnaryStream,
    GuardedUnaryUnary,
)
from tocsin.inprocess.capture import text_metadata
from tocsin.inprocess.channel import GuardedCalls, SentRequest, WrappedMethod
from tocsin.inprocess.holding import Holding
from tocsin.judgement.actions import Ask, Outcome
from tocsin.judgement.batching import Batcher
from tocsin.outbound import aio_channels


class _Callable:
    """What callables of the four kinds of call have in common."""

    request_streams = False
    response_streams = False

    def __init__(self, guarded: WrappedMethod) -> None:
        self._guarded = guarded
        self._batcher: Batcher | None = None

    def __call__(self, request: Any = None, *, metadata: Any = None, **more: Any) -> Any:
        guarded = self._guarded
        call = guarded.guard.call(guarded.method, text_metadata(metadata, guarded.guard.score_keys))
        assert call is not None  # the channel has asked
        if self._batcher is None:
            self._batcher = Batcher(guarded.guard)
        holding = Holding(guarded.guard, call, asks=not self.request_streams)
        ask = self._asker(request, metadata, more)
        begin, sent, received = guarded.begin(call, request)
        inner = begin(sent, metadata=metadata, **more)
        call_class = _CALLS[self.request_streams, self.response_streams]
        return call_class(inner, holding, guarded, self._batcher, received, ask)

    def _asker(self, message: Any, metadata: Any, more: dict[str, Any]) -> Asker:
        """A function that sends the call's request once more."""
        guarded, streams = self._guarded, self.response_streams
        request = SentRequest(guarded, more.get("timeout"), metadata)

        async def ask(step: Ask) -> Outcome:
            if step.upstream is not None:
                return await aio_channels().send(*request.to_fallback(step))
            seconds = request.seconds(step)
            if seconds <= 0:
                return None
            inner, capture = guarded.open(None)
            try:
                response = inner(message, metadata=metadata, **{**more, "timeout": seconds})
                messages = [answer async for answer in response] if streams else [await response]
            except grpc.RpcError:
                return None
            contents = [capture.content_of(answer) for answer in messages]
            present = [content for content in contents if content is not None]
            return present if len(present) == len(contents) else None

        return ask


class UnaryUnary(_Callable, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """A guarded method of one request and one response."""


class StreamUnary(_Callable, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[misc]
    """A guarded method of many requests and one response."""

    request_streams = True


class UnaryStream(_Callable, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[misc]
    """A guarded method of one request and many responses."""

    response_streams = True


class StreamStream(_Callable, grpc.aio.StreamStreamMultiCallable):  # type: ignore[misc]
    """A guarded method of many requests and many responses."""

    request_streams = response_streams = True


_CALLS: dict[tuple[bool, bool], Any] = {
    (False, False): GuardedUnaryUnary,
    (False, True): GuardedUnaryStream,
    (True, False): GuardedStreamUnary,
    (True, True): GuardedStreamStream,
}


class GuardedAioChannel(GuardedCalls, grpc.aio.Channel):  # type: ignore[misc]
    """The channel with its guarded methods judged. Calls of other methods pass unchanged."""

    guarded = {  # noqa: RUF012 (one for all)
        "unary_unary": UnaryUnary,
        "unary_stream": UnaryStream,
        "stream_unary": StreamUnary,
        "stream_stream": StreamStream,
    }
    none_fails = False

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> Any:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: Any) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> GuardedAioChannel:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
