"""Claim: beside a guarded channel or server, other interceptors see the program's own messages, in every order.

All four kinds of call, sync and aio, whatever is done about the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.harness import ranker as acme
from tests.positions import ANSWERS, ask, ask_aio, config

import tocsin

SCENARIOS = {
    "Rank": ["far"],
    "Watch": ["safe3 far safe5"],
    "Sum": ["safe3", "far"],
    "Chat": ["safe3", "far", "safe5"],
}
POLICIES: dict[str, dict[str, Any]] = {
    "annotate": {"mode": "annotate"},
    "abstain": {
        "mode": "enforce",
        "on_alarm": {"critical": "abstain"},
        "abstain": {"response": {"model": "nobody"}, "keep": ["id"]},
    },
    "block": {"mode": "enforce", "on_alarm": {"critical": "block"}},
    "end": {"mode": "enforce", "judge": "end"},
    "retry": {"mode": "enforce", "on_alarm": {"critical": "retry"}, "retry": {"most": 1, "otherwise": "flag"}},
}


async def _later(messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message


class Witness:
    """Types of what passed: everything is the program's own, or the test that reads this fails."""

    def __init__(self) -> None:
        self.requests: list[type] = []
        self.responses: list[type] = []

    def each(self, messages: Any, into: list[type]) -> Iterator[Any]:
        for message in messages:
            into.append(type(message))
            yield message

    async def each_aio(self, messages: Any, into: list[type]) -> AsyncIterator[Any]:
        if not hasattr(messages, "__aiter__"):  # as the program gave it
            messages = _later(messages)
        async for message in messages:
            into.append(type(message))
            yield message

    def note(self, message: Any, into: list[type]) -> Any:
        into.append(type(message))
        return message

    def saw(self, kind: str) -> None:
        """Assert that the messages that passed are messages of the service."""
        assert set(self.requests) == {acme.Request}, kind
        assert set(self.responses) <= {acme.Response}, kind


class SyncClient(
    Witness,
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, self.note(request, self.requests))
        if call.exception() is None:
            self.note(call.result(), self.responses)
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return Passing(self, continuation(details, self.note(request, self.requests)))

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        call = continuation(details, self.each(requests, self.requests))
        if call.exception() is None:
            self.note(call.result(), self.responses)
        return call

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return Passing(self, continuation(details, self.each(requests, self.requests)))


class Passing:
    """A call whose responses an interceptor reads as they pass."""

    def __init__(self, by: Witness, call: Any) -> None:
        self._responses = by.each(call, by.responses)
        self._call = call

    def __iter__(self) -> Passing:
        return self

    def __next__(self) -> Any:
        return next(self._responses)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class AioUnaryUnary(Witness, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, self.note(request, self.requests))
        self.note(await call, self.responses)
        return call


class AioUnaryStream(Witness, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return self.each_aio(await continuation(details, self.note(request, self.requests)), self.responses)


class AioStreamUnary(Witness, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        call = await continuation(details, self.each_aio(requests, self.requests))
        self.note(await call, self.responses)
        return call


class AioStreamStream(Witness, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return self.each_aio(await continuation(details, self.each_aio(requests, self.requests)), self.responses)


AIO = {"Rank": AioUnaryUnary, "Watch": AioUnaryStream, "Sum": AioStreamUnary, "Chat": AioStreamStream}


class SyncServer(Witness, grpc.ServerInterceptor):  # type: ignore[misc]
    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        attribute, make = SERVED[handler.request_streaming, handler.response_streaming]
        inner = getattr(handler, attribute)

        def behave(request: Any, context: Any) -> Any:
            if handler.request_streaming:
                request = self.each(request, self.requests)
            else:
                self.note(request, self.requests)
            response = inner(request, context)
            if handler.response_streaming:
                return self.each(response, self.responses)
            return self.note(response, self.responses)

        return make(behave, handler.request_deserializer, handler.response_serializer)


class AioServer(Witness, grpc.aio.ServerInterceptor):  # type: ignore[misc]
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        attribute, make = SERVED[handler.request_streaming, handler.response_streaming]
        inner = getattr(handler, attribute)

        def noted(request: Any) -> Any:
            if handler.request_streaming:
                return self.each_aio(request, self.requests)
            return self.note(request, self.requests)

        async def single(request: Any, context: Any) -> Any:
            return self.note(await inner(noted(request), context), self.responses)

        async def many(request: Any, context: Any) -> Any:
            async for response in inner(noted(request), context):
                yield self.note(response, self.responses)

        behave = many if handler.response_streaming else single
        return make(behave, handler.request_deserializer, handler.response_serializer)


SERVED = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


@pytest.fixture(scope="module", params=list(POLICIES))
def guard(request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tocsin.Guard:
    folder = tmp_path_factory.mktemp("interceptors")
    return tocsin.Guard.open(config(bundle, folder, "127.0.0.1:1", POLICIES[str(request.param)]))


@pytest.mark.parametrize("order", ["guard around", "guard inside", "guard between"])
@pytest.mark.parametrize("kind", SCENARIOS)
def test_interceptors_of_a_sync_channel(kind: str, order: str, guard: tocsin.Guard) -> None:
    outer, inner = SyncClient(), SyncClient()
    with acme.ranker(ANSWERS) as (_, address):
        with tocsin.guard_channel(grpc.insecure_channel(address), guard) as bare:
            expected = ask(bare, kind, SCENARIOS[kind])
        with grpc.insecure_channel(address) as channel:
            guarded: Any = channel
            if order != "guard inside":
                guarded = grpc.intercept_channel(guarded, inner)
            guarded = tocsin.guard_channel(guarded, guard)
            if order != "guard around":
                guarded = grpc.intercept_channel(guarded, outer)
            assert ask(guarded, kind, SCENARIOS[kind]) == expected
    for witness, there in ((inner, order != "guard inside"), (outer, order != "guard around")):
        if there:
            witness.saw(kind)


@pytest.mark.parametrize("kind", SCENARIOS)
def test_interceptors_of_an_aio_channel(kind: str, guard: tocsin.Guard) -> None:
    witness = AIO[kind]()

    async def both(address: str) -> tuple[Any, Any]:
        async with tocsin.guard_channel(grpc.aio.insecure_channel(address), guard) as bare:
            expected = await ask_aio(bare, kind, SCENARIOS[kind])
        inner = grpc.aio.insecure_channel(address, interceptors=[witness])
        async with tocsin.guard_channel(inner, guard) as channel:
            return expected, await ask_aio(channel, kind, SCENARIOS[kind])

    with acme.ranker(ANSWERS) as (_, address):
        expected, observed = asyncio.run(both(address))
    assert observed == expected
    witness.saw(kind)


@pytest.mark.parametrize("order", ["guard first", "guard last", "guard between"])
@pytest.mark.parametrize("kind", SCENARIOS)
def test_interceptors_of_a_sync_server(kind: str, order: str, guard: tocsin.Guard) -> None:
    before, after, guarding = SyncServer(), SyncServer(), tocsin.server_interceptor(guard)
    chain = {
        "guard first": [guarding, after],
        "guard last": [before, guarding],
        "guard between": [before, guarding, after],
    }[order]
    with acme.ranker(ANSWERS, guarding) as (_, address), grpc.insecure_channel(address) as channel:
        expected = ask(channel, kind, SCENARIOS[kind])
    with acme.ranker(ANSWERS, *chain) as (_, address), grpc.insecure_channel(address) as channel:
        assert ask(channel, kind, SCENARIOS[kind]) == expected
    for witness in (interceptor for interceptor in chain if interceptor is not guarding):
        witness.saw(kind)


@pytest.mark.parametrize("order", ["guard first", "guard last", "guard between"])
@pytest.mark.parametrize("kind", SCENARIOS)
def test_interceptors_of_an_aio_server(kind: str, order: str, guard: tocsin.Guard) -> None:
    before, after = AioServer(), AioServer()

    async def served(*chain: Any) -> Any:
        async with acme.aio_ranker(acme.AioRanker(ANSWERS), *chain) as address:
            async with grpc.aio.insecure_channel(address) as channel:
                return await ask_aio(channel, kind, SCENARIOS[kind])

    guarding = tocsin.server_interceptor(guard)
    expected = asyncio.run(served(guarding))
    guarding = tocsin.server_interceptor(guard)
    chain = {
        "guard first": [guarding, after],
        "guard last": [before, guarding],
        "guard between": [before, guarding, after],
    }[order]
    assert asyncio.run(served(*chain)) == expected
    for witness in (interceptor for interceptor in chain if interceptor is not guarding):
        witness.saw(kind)


class Changing(SyncClient):
    """An interceptor that replaces the request."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        del request
        return continuation(details, acme.Request(query="far"))


def test_what_an_interceptor_puts_in_the_place_of_a_request_is_what_counts(guard: tocsin.Guard) -> None:
    with acme.ranker(ANSWERS) as (service, address), grpc.insecure_channel(address) as channel:
        guarded = tocsin.guard_channel(grpc.intercept_channel(channel, Changing()), guard)
        outcome = ask(guarded, "Rank", ["safe3"])
        assert set(service.queries) == {"far"} and "critical" in outcome["verdicts"][0]
