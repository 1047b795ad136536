"""What is judged together: as much as comes while each turn of the loop brings more, and nothing waits for long."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks.harness.parts import METHOD, inference, inline_guard, quick_bundle, safe_traffic, settings
from benchmarks.harness.served import in_sessions, model

from tocsin.judgement.batching import FILLING_TICKS, INLINE_ROWS, MAX_COALESCED_TICKS, Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.call_size import INLINE_BYTES
from tocsin.judgement.guard import Guard
from tocsin.judgement.judge import MAX_STEP_ROWS
from tocsin.judgement.sink import Scored
from tocsin.relay.context import RelayContext, RelayedConnection
from tocsin_calibration import Window
from tocsin_detectors import Observations


@pytest.mark.parametrize(
    ("arrivals", "batches"),
    [
        ([1], [1]),
        ([1, 0, 1], [1, 1]),  # a turn without any ends a batch
        ([3, 2], [5]),
        ([1] * 10, [MAX_COALESCED_TICKS + 1, MAX_COALESCED_TICKS + 1]),  # however long it goes on
    ],
)
def test_turns_that_bring_more_share_a_batch(tmp_path: Path, arrivals: list[int], batches: list[int]) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    guard = inline_guard(settings(1, bundle))
    sizes: list[int] = []
    guard.sinks.append(SimpleNamespace(scored=lambda batch: sizes.append(len(batch.calls))))  # type: ignore[arg-type]
    answer = inference(safe_traffic(1), slice(0, 1))

    async def arrive() -> list[Call]:
        batcher = Batcher(guard)
        calls, waits = [], []
        for many in arrivals:
            for _ in range(many):
                call = Call(METHOD, {}, "", False)
                call.response = answer
                calls.append(call)
                waits.append(asyncio.ensure_future(batcher.judge(call)))
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*waits), 60)
        return calls

    calls = asyncio.run(arrive())
    assert sizes == batches
    assert all(call.verdict is not None and call.verdict.unscored is None for call in calls)


@pytest.mark.parametrize(("filled_after", "turns"), [(7, 8), (1_000, FILLING_TICKS)])
async def test_a_batch_waits_for_what_came_with_it_but_not_for_ever(
    filled_after: int, turns: int, tmp_path: Path
) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    guard = inline_guard(settings(1, bundle))
    looks: list[int] = []

    def is_filling() -> bool:
        looks.append(len(looks))
        return len(looks) < filled_after

    batcher = Batcher(guard, is_filling=is_filling)
    calls = [call_of(inference(safe_traffic(1), slice(0, 1))) for _ in range(2)]
    waits = [asyncio.ensure_future(batcher.judge(calls[0]))]
    for turn in range(turns):
        await asyncio.sleep(0)
        if turn == 4:  # after turns that brought none
            waits.append(asyncio.ensure_future(batcher.judge(calls[1])))
        assert not any(call.verdict for call in calls)
    for _ in range(MAX_COALESCED_TICKS):
        await asyncio.sleep(0)
    assert all(call.verdict is not None and call.verdict.unscored is None for call in calls)
    await asyncio.gather(*waits)


async def test_a_turn_of_the_loop_looks_only_at_those_it_may_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    guard = inline_guard(settings(1, bundle))
    judge, sizes = guard.judge, list[int]()
    monkeypatch.setattr(guard, "judge", lambda calls, most: (sizes.append(len(calls)), judge(calls, most))[1])
    batcher = Batcher(guard)
    calls = [call_of(inference(safe_traffic(1), slice(0, 1))) for _ in range(3 * INLINE_ROWS)]
    await asyncio.wait_for(asyncio.gather(*(batcher.judge(call) for call in calls)), 60)
    assert sizes == [INLINE_ROWS] * 3
    assert all(call.verdict is not None and call.verdict.unscored is None for call in calls)


def call_of(content: bytes) -> Call:
    call = Call(METHOD, {}, "", False)
    call.response = content
    return call


class Connection(RelayedConnection):
    """A relay's connection with so many calls under way."""

    def __init__(self, calls: int) -> None:
        self._calls = calls

    @property
    def open_streams(self) -> int:
        return self._calls


@pytest.mark.parametrize(
    ("under_way", "at_once"),
    [([1], True), ([0], True), ([0, 1, 0], True), ([2], False), ([1, 1], False), ([0] * 9, False)],
)
def test_a_relay_judges_in_the_first_turn_what_no_other_call_can_join(
    tmp_path: Path, under_way: list[int], at_once: bool
) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    guard = inline_guard(settings(1, bundle))

    async def judged() -> bool:
        context = RelayContext(guard.config, guard)
        context.start()
        context.connections.update(map(Connection, under_way))
        call = call_of(inference(safe_traffic(1), slice(0, 1)))
        waiting = asyncio.ensure_future(context.batcher.judge(call))
        await asyncio.sleep(0)  # it is submitted,
        await asyncio.sleep(0)  # and this is the turn after
        first = call.verdict is not None
        await waiting
        return first

    assert asyncio.run(judged()) == at_once


class Threads:
    """A sink that notes in which thread responses were judged, by their rows."""

    def __init__(self) -> None:
        self.judged: list[tuple[int, bool]] = []

    def scored(self, batch: Scored) -> None:
        self.judged.append((len(batch.scores), threading.current_thread() is threading.main_thread()))


def test_large_responses_are_judged_beside_the_loop_and_nobody_waits_for_them(tmp_path: Path) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    threads = Threads()
    guard = inline_guard(settings(1, bundle), [threads])  # type: ignore[list-item]
    many = safe_traffic(20_000)
    few, by_rows = inference(many, slice(0, 1)), inference(many, slice(0, INLINE_ROWS + 1))
    by_bytes = inference(many, slice(0, 20_000))
    assert len(by_rows) < INLINE_BYTES < len(by_bytes)

    async def arrive() -> list[Call]:
        batcher, order = Batcher(guard), list[Call]()

        async def judged(call: Call) -> None:
            await batcher.judge(call)
            order.append(call)

        calls = [call_of(content) for content in (by_bytes, by_rows, few)]
        await asyncio.wait_for(asyncio.gather(*map(judged, calls)), 60)
        batcher.close()
        assert order[0] is calls[2], "the small one is told first"
        return calls

    calls = asyncio.run(arrive())
    assert sorted(threads.judged) == [(1, True), (INLINE_ROWS + 1, False), (20_000, False)]
    expected = guard.models["digits"].scoring.promise.judge(guard.models["digits"].scoring.scorer(many)).pvalues
    assert calls[0].verdict is not None and calls[0].verdict.pvalues == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("raw", "padding", "in_loop"), [(True, 1 << 20, True), (False, 1 << 20, False), (True, 4 << 20, False)]
)
def test_bytes_that_are_taken_as_they_are_need_no_thread(
    raw: bool, padding: int, in_loop: bool, tmp_path: Path
) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    threads = Threads()
    guard = inline_guard(settings(1, bundle), [threads])  # type: ignore[list-item]
    observations = Observations({**safe_traffic(1), "image": np.zeros((1, padding // 4), np.float32)})
    content = inference(observations, slice(0, 1), raw=raw)
    assert len(content) > INLINE_BYTES
    (call,) = judged_at_once(guard, content, 1)
    assert call.verdict is not None and call.verdict.unscored is None
    assert threads.judged == [(1, in_loop)]


def judged_at_once(guard: Guard, content: bytes, count: int) -> list[Call]:
    """Calls with this response that arrive in one turn of the event loop, with their verdicts."""

    async def arrive() -> list[Call]:
        batcher = Batcher(guard)
        calls = [call_of(content) for _ in range(count)]
        await asyncio.wait_for(asyncio.gather(*map(batcher.judge, calls)), 60)
        batcher.close()
        return calls

    return asyncio.run(arrive())


def test_a_large_response_that_is_given_up_is_kept_no_longer(tmp_path: Path) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    guard = inline_guard(settings(1, bundle, max_memory="1MiB"))
    content = inference(safe_traffic(20_000), slice(0, 20_000))

    calls = judged_at_once(guard, content, 6)
    given_up = [call for call in calls if call.verdict is not None and call.verdict.unscored == "queue_full"]
    assert len(given_up) == 4  # one is judged and one waits
    assert [call.response for call in calls] == [None] * 6  # although their streams may stay open for long


def test_large_responses_that_wait_are_half_of_the_memory_budget(tmp_path: Path) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    content = inference(safe_traffic(20_000), slice(0, 20_000))
    guard = inline_guard(settings(1, bundle, max_memory=f"{4 * len(content) // 2**20 + 1}MiB"))

    unscored = [call.verdict.unscored for call in judged_at_once(guard, content, 6) if call.verdict is not None]
    assert sorted(unscored, key=str) == [None] * 2 + ["queue_full"] * 4  # one is judged and one waits


def test_what_is_too_much_for_one_turn_together_is_judged_in_several(tmp_path: Path) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    threads = Threads()
    guard = inline_guard(settings(1, bundle), [threads])  # type: ignore[list-item]
    content = inference(safe_traffic(200), slice(0, 200))

    calls = judged_at_once(guard, content, 7)
    assert all(call.verdict is not None and call.verdict.unscored is None for call in calls)
    assert [here for _, here in threads.judged] == [True] * len(threads.judged)
    assert sum(rows for rows, _ in threads.judged) == 1_400
    assert max(rows for rows, _ in threads.judged) <= INLINE_ROWS


def test_sessions_of_many_rows_are_judged_as_at_once(tmp_path: Path) -> None:
    bundle = in_sessions(tmp_path / "sessions.tocsin", window=Window(5), style="max")
    guard = inline_guard(settings(1, bundle, models=model(bundle)["models"]))
    judge, rows = guard.models["digits"].scoring.judge, 3 * MAX_STEP_ROWS + 7
    scores = guard.models["digits"].scoring.scorer(safe_traffic(rows))
    call = Call(METHOD, {"x-session": "one"}, "", False)
    judged = judge(scores, [(call, rows, None)], guard.models["digits"], {})
    alone = judge.promise.judge(scores, sessions=[judge.promise.sessions.start()] * rows)
    assert (judged.pvalues, judged.severities) == (alone.pvalues, alone.severities)
