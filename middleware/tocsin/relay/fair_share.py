"""How connections share the time of the event loop: start-time fair queueing (Goyal, Vin and Cheng, 1996).

What has come of a connection is read slice by slice. The connection that has used least time is served first, so that
one that asks for little never waits for those that ask for much. In each turn of the event loop only so many seconds
are spent: then everything else of the process has its turn, such as calls of gRPC and the judging of batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

TURN: Final = 0.0002  # seconds of one turn of the event loop; the last slice in it may exceed that


class Flow:
    """One direction of a connection. `read_slice` reads the next slice of what has come, and returns whether it could
    read on at once.
    """

    __slots__ = ("finish", "is_waiting", "is_woken", "read_slice")

    def __init__(self, read_slice: Callable[[], bool]) -> None:
        self.read_slice = read_slice
        self.is_waiting = False  # for its turn, or it has it
        self.is_woken = False  # while it had its turn
        self.finish = 0.0  # the virtual time up to which it was served

    def __lt__(self, other: Flow) -> bool:
        return self.finish < other.finish


class FairShare:
    """Serves flows, in the running event loop, for `turn` seconds of each of its turns. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, turn: float = TURN) -> None:
        self._clock = clock
        self._turn = turn
        self._waiting: list[tuple[float, Flow]] = []  # a heap, by the virtual time at which a flow may begin
        self._virtual_time = 0.0
        self._spent = 0.0  # seconds, in this turn of the loop
        self._ends = 0.0  # when this turn's seconds will be spent
        self._is_serving = False
        self._has_next_turn = False

    def wake(self, flow: Flow) -> None:
        """There is something that a flow could read: it does so now, where this turn still allows it."""
        if flow.is_waiting:
            flow.is_woken = True
            return
        flow.is_waiting = True
        heappush(self._waiting, (max(self._virtual_time, flow.finish), flow))
        if not self._is_serving:
            self._serve()

    @property
    def is_spent(self) -> bool:
        """Whether this turn's seconds are spent: for flows that can end their slice anywhere."""
        return self._clock() >= self._ends

    def _serve(self) -> None:
        if not self._has_next_turn:
            self._has_next_turn = True
            asyncio.get_running_loop().call_soon(self._on_next_turn)
        waiting, clock = self._waiting, self._clock
        self._is_serving = True
        try:
            began = clock()
            self._ends = began + self._turn - self._spent
            while waiting and self._spent < self._turn:
                start, flow = heappop(waiting)
                self._virtual_time = start
                flow.is_waiting, flow.is_woken = True, False
                reads_on = False
                try:
                    reads_on = flow.read_slice()
                finally:
                    flow.is_waiting = False
                ended = clock()
                flow.finish = start + (ended - began)
                self._spent += ended - began
                began = ended
                if reads_on or flow.is_woken:
                    flow.is_waiting = True
                    heappush(waiting, (flow.finish, flow))
        finally:
            self._is_serving = False

    def _on_next_turn(self) -> None:
        self._has_next_turn = False
        self._spent = 0.0
        if self._waiting:
            self._serve()
