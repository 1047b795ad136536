"""Responses of one connection that wait for the scorer, where it judges in a thread."""

from __future__ import annotations

import asyncio
from typing import Final

from tocsin.judgement.batching import MOST_WAITING, VerdictCallback
from tocsin.judgement.call import Call
from tocsin.memory import MemoryAccount
from tocsin.relay.context import RelayContext

MOST_JUDGING: Final = MOST_WAITING // 4  # responses of one connection that may wait for the scorer


class ScorerQueue:
    """What one connection has in the queue that all connections share, which it may not fill alone.

    `memory` is the connection's account: what waits is charged to it. A response for which there is no room gets its
    reason as its verdict in the next turn of the event loop.
    """

    __slots__ = ("_context", "_memory", "_waiting")

    def __init__(self, context: RelayContext, memory: MemoryAccount) -> None:
        self._context = context
        self._memory = memory
        self._waiting = 0  # responses

    def submit(self, call: Call, on_verdict: VerdictCallback) -> None:
        """Have a response judged when its turn comes."""
        size = call.size
        if self._waiting >= MOST_JUDGING:
            fault = "queue_full", f"{MOST_JUDGING:,} responses of one connection wait for the scorer already"
        elif self._memory.lacks_room:
            fault = "memory", "a response that waits for the scorer was not kept"
        else:
            self._waiting += 1
            self._memory.charge(size)
            self._context.batcher.submit(call, QueuedResponse(self, on_verdict, size))
            return
        self._context.guard.give_up(call, *fault)
        asyncio.get_running_loop().call_soon(self._tell, call, on_verdict)

    def _tell(self, call: Call, on_verdict: VerdictCallback) -> None:
        """Call back for a response that was not judged, as after a batch."""
        on_verdict.judged(call)
        self._context.flushed()

    def release(self, size: int) -> None:
        """A response of that size, in bytes, waits no more."""
        self._waiting -= 1
        self._memory.release(size)


class QueuedResponse:
    """A response that waits for its turn with the scorer, and the memory that it takes meanwhile."""

    __slots__ = ("_on_verdict", "_queue", "_size")

    def __init__(self, queue: ScorerQueue, on_verdict: VerdictCallback, size: int) -> None:
        self._queue = queue
        self._on_verdict = on_verdict
        self._size = size

    def judged(self, call: Call) -> None:
        """The call has its verdict."""
        self._queue.release(self._size)
        self._on_verdict.judged(call)
