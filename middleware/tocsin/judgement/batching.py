"""Natural batching: responses that complete in one turn of the event loop are judged as one batch.

There is no timer and no batch size: batches grow with the load. Judging a batch costs as much as judging about half a
dozen responses, so while each turn brings more responses, a few turns share one batch. A response that no other can
join, as nobody else has asked for one, waits for no further turn. A bundle that is too slow for
the event loop runs in a worker thread, where ONNX Runtime releases the interpreter: one batch is scored while the next
one fills.

Responses that are large, by bytes or by rows, run one after the other in a thread of their own, so that neither the
loop nor smaller responses wait for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from tocsin.judgement.call import Call
from tocsin.judgement.call_size import INLINE_BYTES, is_large, message_bytes
from tocsin.judgement.guard import Guard
from tocsin.judgement.message_run import MessageRun

MOST_WAITING: Final = 10_000  # calls that may wait for a batch in flight
MAX_COALESCED_TICKS: Final = 4  # of the loop that may share a batch
FILLING_TICKS: Final = 16  # the same while more of what came together is still being read
LARGE_SHARE: Final = 2  # one in so many bytes of max_memory: those that are held elsewhere are there twice
INLINE_ROWS: Final = 512  # of all responses together, that are judged in the loop: some 2 ms


class VerdictCallback(Protocol):
    """An object that waits for a call's verdict."""

    def judged(self, call: Call) -> None:
        """The call has its verdict."""
        ...


class Batcher:
    """Collects calls while each turn brings more, judges them together, and calls back whoever waits.

    `after_flush` runs once for each batch, after the callbacks of all its calls. `is_alone` tells whether no other call
    is under way than the one that waits; `expected` counts calls whose response is awaited, by whoever judges alone.
    `is_filling` tells whether more is to come of all that waits, as it came in reads that are not handled yet.
    """

    def __init__(
        self,
        guard: Guard,
        after_flush: Callable[[], None] = lambda: None,
        is_alone: Callable[[], bool] = lambda: False,
        is_filling: Callable[[], bool] = lambda: False,
    ) -> None:
        self._guard = guard
        self._after_flush = after_flush
        self._is_alone = is_alone
        self._is_filling = is_filling
        self.expected = 0
        self.most_waiting = MOST_WAITING
        self._loop = asyncio.get_running_loop()
        self._calls: list[Call] = []
        self._waiting: list[VerdictCallback] = []
        self.has_runs = False  # whether runs of messages are among them: said by whoever submits one
        self._scheduled = False
        self._ticks = self._size_last_tick = 0  # of the batch that grows: turns so far, and calls at the last of them
        self._pool: ThreadPoolExecutor | None = None
        self._in_flight = False
        self._large: deque[tuple[Call, VerdictCallback]] = deque()
        self._large_bytes = 0  # of those, and the one that is being judged
        self._large_pool: ThreadPoolExecutor | None = None
        self._large_in_flight = False

    @property
    def waiting(self) -> int:
        """How many calls wait to be judged."""
        return len(self._calls) + len(self._large)

    @property
    def inline(self) -> bool:
        """Whether a call submitted now is judged in this thread, within a few turns of the loop."""
        return not self._guard.is_blocking and not self._in_flight

    def submit(self, call: Call, waiting: VerdictCallback) -> None:
        """Judge the call with others. When too many calls wait already, it passes unscored at once."""
        calls = self._calls
        if len(calls) >= self.most_waiting:
            self._loop.call_soon(self._give_up, call, waiting)
            return
        calls.append(call)
        self._waiting.append(waiting)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def judge_alone(self, call: Call) -> bool:
        """Judge the call in this turn of the loop, where it is small and no other is expected to join it: whether that
        was done. Its messages are the caller's to drop.
        """
        guard = self._guard
        if self.expected or self._calls or guard.is_blocking or is_large(call):
            return False
        if guard.judge((call,), INLINE_ROWS):
            return False
        if guard.shadows:
            guard.shadow((call,))
        return True

    async def judge(self, call: Call) -> None:
        """Judge the call with others, and wait for its verdict."""
        waiting = _Future(self._loop.create_future())
        self.submit(call, waiting)
        await waiting.future

    def close(self) -> None:
        """End the worker threads, if there are any."""
        for pool in (self._pool, self._large_pool):
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)

    def _give_up(self, call: Call, waiting: VerdictCallback) -> None:
        self._guard.give_up(call, "queue_full", f"{self.waiting:,} responses wait for the scorer already")
        waiting.judged(call)
        self._after_flush()
        call.forget()

    def _flush(self) -> None:
        """Judge what waits, unless a batch is in flight or the last turn brought more: then a later turn does."""
        self._scheduled = False
        if self._in_flight:
            return  # the batch in flight schedules the next one
        waiting_now = len(self._calls)
        if (
            waiting_now > self._size_last_tick
            and self._ticks < MAX_COALESCED_TICKS
            and not (waiting_now == 1 and self._is_alone())
        ) or (waiting_now and self._ticks < FILLING_TICKS and self._is_filling()):
            self._size_last_tick = waiting_now
            self._ticks += 1
            self._scheduled = True
            self._loop.call_soon(self._flush)
            return
        self._ticks = self._size_last_tick = 0
        calls, waiting = self._take()
        if not calls:
            return
        if self.has_runs:
            self.has_runs = bool(self._calls)
            calls, waiting = self._runs_read(calls, waiting)
        if not self._guard.is_blocking:
            self._judge_inline(calls, waiting)
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="tocsin-scorer")
            self._in_flight = True
            done = self._loop.run_in_executor(self._pool, self._guard.judge, calls)
            done.add_done_callback(lambda _: self._landed(calls, waiting))

    def _take(self) -> tuple[list[Call], list[VerdictCallback]]:
        """The calls to judge now: within the loop no more than it may judge in a turn, as each has a row at least."""
        calls, waiting = self._calls, self._waiting
        if len(calls) <= INLINE_ROWS or self._guard.is_blocking:
            self._calls, self._waiting = [], []
            return calls, waiting
        self._calls, self._waiting = calls[INLINE_ROWS:], waiting[INLINE_ROWS:]
        self._judge_rest_soon()
        return calls[:INLINE_ROWS], waiting[:INLINE_ROWS]

    def _judge_rest_soon(self) -> None:
        """Judge what waits in the next turn, without waiting for more."""
        self._ticks = FILLING_TICKS
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _runs_read(self, calls: list[Call], waiting: list[VerdictCallback]) -> tuple[list[Call], list[VerdictCallback]]:
        """The calls with their runs of messages read; what of a run has to be judged by itself follows in its place."""
        read: list[Call] = []
        callbacks: list[VerdictCallback] = []
        for call, callback in zip(calls, waiting, strict=True):
            parts = self._guard.read_run(call) if isinstance(call, MessageRun) and call.reading is None else [call]
            read += parts
            callbacks += [callback if parts[0] is call else _OfRun(call, callback, len(parts))] * len(parts)
        return read, callbacks

    def _judge_inline(self, calls: list[Call], waiting: list[VerdictCallback]) -> None:
        """Judge as many of these calls as fit into one turn of the loop. Large ones go to their thread, the rest to the
        next turn.
        """
        large = set()
        for call in calls:
            response = call.response
            if response is not None and len(response) <= INLINE_BYTES and not (call.wants_request or call.earlier):
                continue  # most are so
            if is_large(call):
                large.add(id(call))
        small = [call for call in calls if id(call) not in large] if large else calls
        postponed = self._guard.judge(small, INLINE_ROWS)
        if not postponed and not large:
            self._tell(calls, waiting)
            return
        large.update([id(call) for call, rows in postponed if rows > INLINE_ROWS])
        later = {id(call) for call, rows in postponed if rows <= INLINE_ROWS}
        pairs = list(zip(calls, waiting, strict=True))
        here = [pair for pair in pairs if id(pair[0]) not in large and id(pair[0]) not in later]
        self._tell([call for call, _ in here], [callback for _, callback in here])
        for call, callback in pairs:
            if id(call) in large:
                self._add_large(call, callback)
        if later:
            self._calls[:0] = [call for call, _ in pairs if id(call) in later]
            self._waiting[:0] = [callback for call, callback in pairs if id(call) in later]
            self._judge_rest_soon()

    def _add_large(self, call: Call, waiting: VerdictCallback) -> None:
        """Judge a response in the thread for large ones. When too much waits for that thread, it passes unscored."""
        size = message_bytes(call)
        if self._large and self._large_bytes + size > self._guard.config.max_memory // LARGE_SHARE:
            self._loop.call_soon(self._give_up, call, waiting)
            return
        self._large_bytes += size
        self._large.append((call, waiting))
        if not self._large_in_flight:
            self._judge_next_large()

    def _judge_next_large(self) -> None:
        """Have the thread judge the large response that has waited longest; `_large_landed` follows."""
        call, waiting = self._large.popleft()
        if self._large_pool is None:
            self._large_pool = ThreadPoolExecutor(1, thread_name_prefix="tocsin-scorer-large")
        self._large_in_flight = True
        size = message_bytes(call)
        done = self._loop.run_in_executor(self._large_pool, self._judge_alone, call)
        done.add_done_callback(lambda _: self._large_landed(call, waiting, size))

    def _large_landed(self, call: Call, waiting: VerdictCallback, size: int) -> None:
        """A large response of that size is judged: call back, and go on with the next."""
        self._large_in_flight = False
        self._large_bytes -= size
        if self._large:
            self._judge_next_large()
        self._tell([call], [waiting], shadows=False)

    def _judge_alone(self, call: Call) -> None:
        """Judge a large response in its thread, by the candidate bundle too."""
        self._guard.judge([call])
        if self._guard.shadows:
            self._guard.shadow([call])

    def _landed(self, calls: list[Call], waiting: list[VerdictCallback]) -> None:
        """The thread has judged a batch: call back, and go on with what has come meanwhile."""
        self._in_flight = False
        self._tell(calls, waiting)
        if self._calls:
            self._flush()

    def _tell(self, calls: list[Call], waiting: list[VerdictCallback], *, shadows: bool = True) -> None:
        """Call back whoever waits for these calls, which have their verdicts, and drop the calls' messages."""
        if not shadows or not self._guard.shadows:
            for call, callback in zip(calls, waiting, strict=True):
                callback.judged(call)
                call.forget()
            self._after_flush()
            return
        for call, callback in zip(calls, waiting, strict=True):
            callback.judged(call)
        self._after_flush()
        self._guard.shadow(calls)
        for call in calls:
            call.forget()


class _OfRun:
    """Waits for all verdicts of what was one run, on behalf of whoever waits for that."""

    __slots__ = ("_missing", "_run", "_waiting")

    def __init__(self, run: Call, waiting: VerdictCallback, parts: int) -> None:
        self._run, self._waiting, self._missing = run, waiting, parts

    def judged(self, call: Call) -> None:
        """One of its parts has its verdict."""
        del call
        self._missing -= 1
        if not self._missing:
            self._waiting.judged(self._run)


class _Future(NamedTuple):
    """Lets a coroutine wait for a verdict."""

    future: asyncio.Future[None]

    def judged(self, call: Call) -> None:
        """The call has its verdict."""
        del call
        if not self.future.done():
            self.future.set_result(None)
