"""What is judged together: as much as comes while each turn of the loop brings more, and nothing waits for long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.parts import METHOD, inference, quick_bundle, safe_traffic, settings

from tocsin.judgement.batching import TURNS, Batcher
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard


@pytest.mark.parametrize(
    ("arrivals", "batches"),
    [
        ([1], [1]),
        ([1, 0, 1], [1, 1]),  # a turn without any ends a batch
        ([3, 2], [5]),
        ([1] * 10, [TURNS + 1, TURNS + 1]),  # however long it goes on
    ],
)
def test_turns_that_bring_more_share_a_batch(tmp_path: Path, arrivals: list[int], batches: list[int]) -> None:
    bundle = tmp_path / "quick.tocsin"
    quick_bundle(bundle)
    guard = Guard.open(settings(1, bundle))
    told: list[int] = []
    guard.sinks.append(SimpleNamespace(scored=lambda batch: told.append(len(batch.calls))))  # type: ignore[arg-type]
    answer = inference(safe_traffic(1), slice(0, 1))

    async def arrive() -> list[Call]:
        batcher = Batcher(guard)
        calls, waits = [], []
        for many in arrivals:
            for _ in range(many):
                call = Call(METHOD, {}, "", False)
                call.response = answer
                calls.append(call)
                waits.append(asyncio.ensure_future(batcher.judged(call)))
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*waits), 10)
        return calls

    calls = asyncio.run(arrive())
    assert told == batches
    assert all(call.verdict is not None and call.verdict.unscored is None for call in calls)
