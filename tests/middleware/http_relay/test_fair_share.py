"""Claims: connections get equal time, one that asks for little waits for one slice at most, a turn of the event loop
is bounded, and a caller that reads nothing has nothing more judged for it than its socket takes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.chat import USUAL, stream
from tests.middleware.http_relay.raw import SAFE, calling, chunked, relayed, request, response

from tocsin.http_relay.sides import MOST_UNSENT
from tocsin.relay.fair_share import TURN, FairShare, Flow


class Work:
    """Slices of some seconds each, as the `clock` of a share; `served` are the names of who had them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.served: list[str] = []
        self.share = FairShare(lambda: self.now)

    def flow(self, name: str, slices: int, seconds: float) -> Flow:
        remaining = slices

        def read_slice() -> bool:
            nonlocal remaining
            remaining -= 1
            self.now += seconds
            self.served.append(name)
            return remaining > 0

        return Flow(read_slice)


async def turns(claim: Callable[[], bool]) -> int:
    """How many turns of the loop it takes until a claim comes true."""
    for turn in range(10_000):
        if claim():
            return turn
        await asyncio.sleep(0)
    raise AssertionError("it never comes true")


async def test_all_get_equal_time_whatever_their_slices_cost() -> None:
    work = Work()
    flows = {name: work.flow(name, 10_000, TURN * cost) for name, cost in (("a", 0.1), ("b", 0.4), ("c", 0.9))}
    for flow in flows.values():
        work.share.wake(flow)
    await turns(lambda: len(work.served) >= 600)
    seconds = [work.served.count(name) * cost for name, cost in (("a", 0.1), ("b", 0.4), ("c", 0.9))]
    assert max(seconds) - min(seconds) <= 0.9 + 0.9  # a slice of each


async def test_one_that_asks_for_little_waits_for_a_slice_and_not_for_a_round() -> None:
    work = Work()
    for number in range(40):
        work.share.wake(work.flow(f"much {number}", 10_000, TURN))
    await turns(lambda: len(work.served) >= 200)
    little = work.flow("little", 10_000, TURN / 10)
    for _ in range(20):
        before = len(work.served)
        work.share.wake(little)
        await turns(lambda before=before: "little" in work.served[before:])  # type: ignore[misc]
        assert work.served[before:].index("little") <= 1
        little.read_slice, again = (lambda: False), little.read_slice
        await turns(lambda: not little.is_waiting)
        little.read_slice = again


async def test_a_turn_of_the_loop_ends_behind_the_slice_that_spends_it() -> None:
    work = Work()
    work.share.wake(work.flow("small", 100, TURN / 4))
    assert len(work.served) == 4  # at once
    await turns(lambda: len(work.served) == 100)
    counts, another = list[int](), Work()
    another.share.wake(another.flow("large", 20, TURN * 3))
    while len(another.served) < 20:
        counts.append(len(another.served))
        await asyncio.sleep(0)
    assert counts == list(range(1, 20))


async def test_what_wakes_a_flow_while_it_is_served_is_not_lost() -> None:
    share, reads = FairShare(lambda: 0.0), list[int]()

    def read_slice() -> bool:
        reads.append(1)
        if len(reads) < 5:
            share.wake(flow)
        return False

    flow = Flow(read_slice)
    share.wake(flow)
    assert len(reads) == 5 and not flow.is_waiting


async def test_a_flow_that_fails_stops_no_other() -> None:
    work = Work()

    def fail() -> bool:
        raise ValueError("a slice that fails")

    with pytest.raises(ValueError, match="a slice that fails"):
        work.share.wake(Flow(fail))
    work.share.wake(work.flow("another", 3, TURN / 8))
    assert work.served == ["another"] * 3


EVENT = stream([USUAL])[1]


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
def test_no_more_is_judged_for_a_caller_that_reads_nothing_than_its_socket_takes(mode: str, each: Path) -> None:
    events, most = 40_000, 4 * MOST_UNSENT // len(EVENT)

    def respond(received: bytes) -> Iterator[bytes]:
        if b"x-much" not in received:
            yield response(SAFE)
            return
        head, *_ = chunked()
        yield head + b"%x\r\n%b\r\n" % (len(EVENT) * 100, EVENT * 100)
        for _ in range(events // 100):
            yield b"%x\r\n%b\r\n" % (len(EVENT) * 100, EVENT * 100)

    with relayed(each, respond, mode=mode, judge=1, session="stream") as (relay, _), socket.socket() as caller:

        def judged() -> float:
            return float(relay.metric("tocsin_responses_total", model="m") or 0)

        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        host, port = relay.target.split(":")
        caller.connect((host, int(port)))
        caller.sendall(request(b"{}", "/v1/chat/completions", "x-much: 1"))
        until(lambda: judged() > 0)
        before = -1.0
        while judged() != before:
            before = judged()
            for _ in range(50):
                with calling(relay.target) as another:
                    another.send(request(path="/other"))
                    assert another.answer()[1] == SAFE
        assert 0 < before < most < events, before
