"""Claims about streams that are open: each counts as memory, and where there is none, no further one is opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.harness.by_hand import relaying_by_hand
from hyperframe.frame import HeadersFrame, RstStreamFrame
from tests.middleware.relay.test_bounds import asking
from tests.middleware.relay.test_windows import HELLO, frames_of

from tocsin.http2.frames import PREFACE
from tocsin.memory import FREE_STREAMS, STREAMS_AT_ONCE, MemoryBudget, StreamAllowance
from tocsin.relay.connection_streams import STREAM_BYTES

MEMORY = 2 << 20
CALLS = 3_000  # which take more than that


def test_streams_are_charged_many_at_a_time_and_released_as_they_end() -> None:
    budget = MemoryBudget(1 << 20)
    allowance = StreamAllowance(budget.open(lambda: None), 1_024)
    assert allowance.extend(FREE_STREAMS - 1) and budget.remaining == 1 << 20
    count = FREE_STREAMS
    while allowance.extend(count):
        count += 1
    assert budget.limit >> 1 < (count - FREE_STREAMS) * 1_024 <= budget.limit - budget.remaining < budget.limit
    charged = budget.remaining
    assert not allowance.extend(count) and budget.remaining == charged
    allowance.shrink(FREE_STREAMS + 10 * STREAMS_AT_ONCE)
    assert allowance.granted == FREE_STREAMS + 11 * STREAMS_AT_ONCE
    allowance.shrink(0)
    assert budget.limit - budget.remaining == (allowance.granted - FREE_STREAMS) * 1_024 <= STREAMS_AT_ONCE * 1_024


@pytest.mark.parametrize("mode", ["observe", "enforce"])
async def test_calls_that_nobody_answers_count_as_memory(bundle: Path, mode: str) -> None:
    relay, connection, to_client, _ = relaying_by_hand(bundle, mode, max_memory=MEMORY)
    streams = range(1, 2 * CALLS, 2)
    connection.downstream.data_received(PREFACE + HELLO + b"".join(map(asking, streams)))
    opened = list(connection.streams)
    assert FREE_STREAMS < len(opened) < MEMORY // STREAM_BYTES
    assert relay.context.limited["memory"] == CALLS - len(opened)
    refused = {f.stream_id for f in frames_of(to_client.written) if isinstance(f, HeadersFrame)}
    assert refused == set(streams) - set(opened)
    kept_bytes = relay.context.memory.limit - relay.context.memory.remaining
    assert kept_bytes >= (len(opened) - FREE_STREAMS) * STREAM_BYTES
    resets = [RstStreamFrame(stream, error_code=8).serialize() for stream in opened]
    connection.downstream.data_received(b"".join(resets))
    assert not connection.streams
    assert relay.context.memory.limit - relay.context.memory.remaining <= 4 * STREAMS_AT_ONCE * STREAM_BYTES
    connection.downstream.connection_lost(None)
    assert relay.context.memory.remaining == relay.context.memory.limit
