"""Claims about what the soak compares: nothing that is a matter of chance, and everything else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from benchmarks.harness.raw_http2 import END_HEADERS, END_STREAM, GRPC, Kind, block, frame, message
from benchmarks.harness.raw_peers import RawPeer, ScriptedUpstream, scripted_upstream
from benchmarks.soak.calls import ENOUGH, Wish, observed

GIVEN_UP = Wish("down", (b"ask",), (), gzip=False, timeout=10.0, cancel=True)


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with scripted_upstream() as server:
        yield server


async def observed_by_caller(
    upstream: ScriptedUpstream, messages: list[bytes], *trailers: tuple[str, str]
) -> dict[str, Any]:
    """What the soak compares of a call that is answered like this; without trailers, the answer never ends."""

    def script(peer: RawPeer, stream: int) -> None:
        opening = block((":status", "200"), ("content-type", GRPC))
        answer = [frame(Kind.HEADERS, END_HEADERS, stream, opening)]
        answer += [frame(Kind.DATA, 0, stream, message(content)) for content in messages]
        if trailers:
            answer.append(frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream, block(*trailers)))
        peer.send(*answer)

    upstream.script = script
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{upstream.port}", options=options) as channel:
        return await observed(channel, GIVEN_UP)


async def test_how_a_call_ends_that_its_caller_gives_up_is_not_compared(upstream: ScriptedUpstream) -> None:
    two = [b"one", b"two"]
    assert len(two) == ENOUGH
    endless = await observed_by_caller(upstream, two)
    assert endless == await observed_by_caller(upstream, two, ("grpc-status", "0"))
    assert endless == await observed_by_caller(
        upstream, two, ("grpc-status", "5"), ("grpc-message", "it ended just before")
    )
    assert endless == await observed_by_caller(upstream, [*two, b"three"], ("grpc-status", "0"))


async def test_what_came_before_its_caller_gave_it_up_is(upstream: ScriptedUpstream) -> None:
    assert await observed_by_caller(upstream, [b"one", b"two"]) != await observed_by_caller(upstream, [b"one", b"twp"])


async def test_a_call_that_ends_before_it_would_be_given_up_is_compared_whole(upstream: ScriptedUpstream) -> None:
    ended = ("grpc-status", "0")
    as_it_was = await observed_by_caller(upstream, [b"one"], ended, ("x-one", "1"))
    assert as_it_was == await observed_by_caller(upstream, [b"one"], ended, ("x-one", "1"))
    assert as_it_was != await observed_by_caller(upstream, [b"one"], ended)
    assert as_it_was != await observed_by_caller(upstream, [b"onf"], ended, ("x-one", "1"))
    assert as_it_was != await observed_by_caller(upstream, [b"one"], ("grpc-status", "1"), ("x-one", "1"))
