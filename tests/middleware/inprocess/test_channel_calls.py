"""Claim: what a guarded channel saves itself (a callable for each call, a turn of the event loop) nobody can tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from benchmarks.harness.model_server import Model, model_server
from benchmarks.harness.parts import INFER, STREAM_INFER, far_away, inference, inline_guard, safe_traffic, settings

import tocsin
from tocsin.protocols import oip

SAFE = safe_traffic(4, seed=5)
ANSWERS = {
    **{b"safe %d" % row: inference(SAFE, slice(row, row + 1)) for row in range(4)},
    b"far": inference(far_away(1), slice(0, 1)),
}


@pytest.fixture
def guard(bundle: Path) -> tocsin.Guard:
    return inline_guard(settings(1, bundle))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Model, str]]:
    with model_server() as (model, address):
        model.answers = ANSWERS
        yield model, address


@pytest.fixture
def server(served: tuple[Model, str]) -> str:
    return served[1]


def batches(guard: tocsin.Guard) -> list[int]:
    """The sizes of the batches that a guard judges from here on."""
    sizes: list[int] = []
    guard.sinks.append(SimpleNamespace(scored=lambda batch: sizes.append(len(batch.calls))))  # type: ignore[arg-type]
    return sizes


async def test_a_lone_aio_call_is_judged_at_once_and_those_that_come_together_are_one_batch(
    guard: tocsin.Guard, server: str
) -> None:
    sizes = batches(guard)
    async with tocsin.guard_channel(grpc.aio.insecure_channel(server), guard) as channel:
        infer = channel.unary_unary(INFER)
        call = infer(b"far")
        assert [*await asyncio.gather(call, call)] == [ANSWERS[b"far"]] * 2  # one call, awaited twice
        assert (await tocsin.verdict(call)).severity == "critical" and await call == ANSWERS[b"far"]
        assert sizes == [1]
        calls = [infer(request) for request in ANSWERS]
        await asyncio.wait([asyncio.ensure_future(awaited(call)) for call in calls])
        assert [(await tocsin.verdict(call)).severity is None for call in calls] == [True] * 4 + [False]
        assert sum(sizes) == 1 + len(ANSWERS)


async def awaited(call: Any) -> Any:
    return await call


async def test_responses_of_one_turn_of_the_loop_are_one_batch_with_no_other_call_under_way(
    guard: tocsin.Guard, served: tuple[Model, str]
) -> None:
    model, address = served
    sizes, many = batches(guard), 16
    async with tocsin.guard_channel(grpc.aio.insecure_channel(address), guard) as channel:
        infer = channel.unary_unary(INFER)
        await infer(b"safe 0")
        before = model.request_counts[b"far"]
        calls = [asyncio.ensure_future(awaited(infer(b"far"))) for _ in range(many)]
        await asyncio.sleep(0)
        while model.request_counts[b"far"] < before + many:  # the loop stands still, and gets all answers at once
            await asyncio.sleep(0)
            time.sleep(0.05)
        time.sleep(0.2)
        await asyncio.gather(*calls)
    assert sum(sizes) == 1 + many and max(sizes) > many / 2


async def test_a_stream_that_a_program_takes_for_one_message_is_judged_as_its_piece(
    guard: tocsin.Guard, server: str
) -> None:
    with tocsin.guard_channel(grpc.insecure_channel(server), guard) as channel:
        _, call = channel.unary_unary(STREAM_INFER).with_call(b"far")
        assert tocsin.verdict(call).severity == "critical"
    async with tocsin.guard_channel(grpc.aio.insecure_channel(server), guard) as aio_channel:
        aio_call = aio_channel.unary_unary(STREAM_INFER)(b"far")
        await aio_call
        assert (await tocsin.verdict(aio_call)).severity == "critical"


async def test_a_lone_aio_call_takes_no_turn_of_the_loop_for_its_judgement(guard: tocsin.Guard, server: str) -> None:
    async with tocsin.guard_channel(grpc.aio.insecure_channel(server), guard) as channel:
        call = channel.unary_unary(INFER)(b"far")
        while not call.done():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        assert await call == ANSWERS[b"far"] and turns == []


async def test_who_gives_up_waiting_for_an_aio_call_cancels_it_as_on_the_bare_channel(
    guard: tocsin.Guard, server: str
) -> None:
    async with (
        grpc.aio.insecure_channel(server) as bare,
        tocsin.guard_channel(grpc.aio.insecure_channel(server), guard) as guarded,
    ):
        for channel in (bare, guarded):
            call = channel.unary_unary(INFER)(b"far", metadata=(("sleep", "0.5"),), wait_for_ready=True)
            waiting = asyncio.ensure_future(awaited(call))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert call.cancelled() and await call.code() is grpc.StatusCode.CANCELLED


def broken(message: Any) -> Any:
    raise ValueError("not one of ours")


def outcomes(channel: grpc.Channel, *codecs: Any) -> list[Any]:
    """What a call comes to, in each way to make it."""
    infer = channel.unary_unary(INFER, *codecs)
    ended: list[Any] = []
    calls: list[Callable[[], Any]] = [
        lambda: infer(b"far"),
        lambda: infer.with_call(b"far")[0],
        lambda: infer.future(b"far").result(),
    ]
    for call in calls:
        try:
            ended.append(call())
        except grpc.RpcError as error:
            ended.append((error.code(), error.details()))
    return ended


def nothing(message: Any) -> None:
    return None


@pytest.mark.parametrize(
    "codecs",
    [(broken, None), (None, broken), (nothing, None), (None, nothing)],
    ids=["serializer raises", "deserializer raises", "serializer gives None", "deserializer gives None"],
)
def test_what_a_programs_codecs_fail_with_is_seen_as_on_the_bare_channel(
    codecs: Any, guard: tocsin.Guard, server: str
) -> None:
    sizes = batches(guard)
    with grpc.insecure_channel(server) as bare, tocsin.guard_channel(grpc.insecure_channel(server), guard) as guarded:
        expected = outcomes(bare, *codecs)
        assert outcomes(guarded, *codecs) == expected
    assert [code for code, _ in expected] == [grpc.StatusCode.INTERNAL] * 3 and sizes == []


async def test_what_an_aio_programs_deserializer_raises_is_seen_as_on_the_bare_channel(
    guard: tocsin.Guard, server: str
) -> None:
    async with (
        grpc.aio.insecure_channel(server) as bare,
        tocsin.guard_channel(grpc.aio.insecure_channel(server), guard) as guarded,
    ):
        answers = [await channel.unary_unary(INFER, None, broken)(b"far") for channel in (bare, guarded)]
        assert answers == [None, None]


def test_who_has_put_something_in_the_place_of_a_channels_method_sees_the_programs_messages(
    guard: tocsin.Guard, server: str
) -> None:
    with grpc.insecure_channel(server) as bare:
        make, messages = bare.unary_unary, list[Any]()

        def traced(*how: Any, **more: Any) -> Any:
            callable_ = make(*how, **more)

            def with_call(request: Any, *rest: Any, **others: Any) -> Any:
                response, call = callable_.with_call(request, *rest, **others)
                messages.extend((request, response))
                return response, call

            return SimpleNamespace(with_call=with_call)

        bare.unary_unary = traced
        assert tocsin.guard_channel(bare, guard).unary_unary(INFER)(b"far") == ANSWERS[b"far"]
        assert messages == [b"far", ANSWERS[b"far"]]


def test_calls_at_once_of_one_callable_keep_their_own_requests_and_verdicts(guard: tocsin.Guard, server: str) -> None:
    with tocsin.guard_channel(grpc.insecure_channel(server), guard) as channel:
        infer = channel.unary_unary(INFER, None, oip.Response.FromString)
        futures = {request: infer.future(request) for request in [*ANSWERS] * 4}
        for request, future in futures.items():
            assert future.result() == oip.Response.FromString(ANSWERS[request])
            assert (tocsin.verdict(future).severity == "critical") == (request == b"far")
