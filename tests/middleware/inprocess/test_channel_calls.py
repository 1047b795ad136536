"""Claim: what a guarded channel saves itself (a callable for each call, a turn of the event loop) nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from benchmarks.harness.model_server import model_server
from benchmarks.harness.parts import INFER, far_away, inference, inline_guard, safe_traffic, settings

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
def server() -> Iterator[str]:
    with model_server() as (model, address):
        model.answers = ANSWERS
        yield address


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


@pytest.mark.parametrize("codecs", [(broken, None), (None, broken)], ids=["serializer", "deserializer"])
def test_what_a_programs_codecs_raise_is_seen_as_on_the_bare_channel(
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


def test_calls_at_once_of_one_callable_keep_their_own_requests_and_verdicts(guard: tocsin.Guard, server: str) -> None:
    with tocsin.guard_channel(grpc.insecure_channel(server), guard) as channel:
        infer = channel.unary_unary(INFER, None, oip.Response.FromString)
        futures = {request: infer.future(request) for request in [*ANSWERS] * 4}
        for request, future in futures.items():
            assert future.result() == oip.Response.FromString(ANSWERS[request])
            assert (tocsin.verdict(future).severity == "critical") == (request == b"far")
