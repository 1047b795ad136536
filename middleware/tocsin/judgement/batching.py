"""Natural batching: what becomes complete in one turn of the event loop is judged as one batch.

There is no timer and no batch size: at load batches grow by themselves. Judging costs as much a batch as it costs for
half a dozen responses, so while each turn brings more, a few turns share one. When a bundle is too heavy to hold up
the loop, batches run in a worker thread, where ONNX Runtime releases the interpreter: one in flight, the next filling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard

MOST_WAITING = 10_000  # calls that may wait for a batch in flight
TURNS = 4  # of the loop that may share a batch


class Waiting(Protocol):
    """Whoever waits for a call's verdict."""

    def judged(self, call: Call) -> None:
        """The call has its verdict."""
        ...


class Batcher:
    """Collects calls for as long as each turn brings more, judges them together, and tells those who wait.

    `after_flush` runs once every batch, when all of its calls were told.
    """

    def __init__(self, guard: Guard, after_flush: Callable[[], None] = lambda: None) -> None:
        self._guard = guard
        self._after_flush = after_flush
        self._loop = asyncio.get_running_loop()
        self._calls: list[Call] = []
        self._waiting: list[Waiting] = []
        self._scheduled = False
        self._turns = self._seen = 0  # of the batch that grows: turns so far, and calls at the last of them
        self._pool: ThreadPoolExecutor | None = None
        self._in_flight = False

    @property
    def waiting(self) -> int:
        """How many calls wait to be judged."""
        return len(self._calls)

    @property
    def inline(self) -> bool:
        """Whether a call submitted now is judged in this thread, and within a few turns of the loop."""
        return not self._guard.heavy and not self._in_flight

    def submit(self, call: Call, waiting: Waiting) -> None:
        """Judge the call with others; when too many wait already, it passes unscored at once."""
        if len(self._calls) >= MOST_WAITING:
            self._loop.call_soon(self._give_up, call, waiting)
            return
        self._calls.append(call)
        self._waiting.append(waiting)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    async def judged(self, call: Call) -> None:
        """Judge the call with others, and wait for its verdict."""
        waiting = _Future(self._loop.create_future())
        self.submit(call, waiting)
        await waiting.future

    def close(self) -> None:
        """End the worker thread, if there is one."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _give_up(self, call: Call, waiting: Waiting) -> None:
        self._guard.give_up(call, "queue_full", f"{MOST_WAITING:,} responses wait for the scorer already")
        waiting.judged(call)
        self._after_flush()

    def _flush(self) -> None:
        self._scheduled = False
        if self._in_flight:
            return  # the batch in flight schedules the next one
        if len(self._calls) > self._seen and self._turns < TURNS:
            self._seen = len(self._calls)
            self._turns += 1
            self._scheduled = True
            self._loop.call_soon(self._flush)
            return
        self._turns = self._seen = 0
        calls, waiting = self._calls, self._waiting
        self._calls, self._waiting = [], []
        if not calls:
            return
        if not self._guard.heavy:
            self._guard.judge(calls)
            self._tell(calls, waiting)
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="tocsin-scorer")
            self._in_flight = True
            done = self._loop.run_in_executor(self._pool, self._guard.judge, calls)
            done.add_done_callback(lambda _: self._landed(calls, waiting))

    def _landed(self, calls: list[Call], waiting: list[Waiting]) -> None:
        self._in_flight = False
        self._tell(calls, waiting)
        if self._calls:
            self._flush()

    def _tell(self, calls: list[Call], waiting: list[Waiting]) -> None:
        for call, one in zip(calls, waiting, strict=True):
            one.judged(call)
        self._after_flush()
        if self._guard.shadows:
            self._guard.shadow(calls)
        for call in calls:
            call.forget()


class _Future(NamedTuple):
    """A coroutine's place among those who wait."""

    future: asyncio.Future[None]

    def judged(self, call: Call) -> None:
        """The call has its verdict."""
        del call
        if not self.future.done():
            self.future.set_result(None)
