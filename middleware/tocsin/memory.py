"""The memory budget: the bytes that every connection keeps, and which connection is cut off when they are spent.

Everything that waits is charged to its connection: unfinished frames and messages, held responses, queues behind
flow-control windows, what a peer's socket does not take, and the streams that are open. When the budget is spent, the
connection that keeps most is cut off, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# Bytes by which the greediest may exceed the budget before it is cut off: twice what its windows let it send still.
LEAST_OVERDRAFT: Final = 8 << 20
FREE_STREAMS: Final = 32  # of a connection, which are not charged: each connection takes more than they
STREAMS_AT_ONCE: Final = 64  # that are charged, or released


class MemoryAccount:
    """What one connection keeps. `close` gives everything back; later releases are ignored."""

    __slots__ = ("_budget", "_evict", "is_open", "used")

    def __init__(self, budget: MemoryBudget, evict: Callable[[], None]) -> None:
        self._budget = budget
        self._evict = evict
        self.used = 0
        self.is_open = True

    def charge(self, size: int) -> bool:
        """Charge so many bytes. Where the budget is spent by that, the connection that keeps most is cut off. Returns
        whether so little is left that `lacks_room` should be asked.
        """
        if not self.is_open:
            return True
        self.used += size
        budget = self._budget
        budget.remaining = remaining = budget.remaining - size
        if remaining >= budget.reserve:
            return False
        if remaining < 0:
            budget.relieve(self)
        return True

    def release(self, size: int) -> None:
        """So many bytes are no longer kept."""
        if self.is_open:
            self.used -= size
            self._budget.remaining += size

    @property
    def lacks_room(self) -> bool:
        """Whether no further message may be kept for this connection.

        A quarter of the budget is reserved for connections that keep little.
        """
        budget = self._budget
        if budget.remaining >= budget.reserve:
            return False
        if self.used > budget.much:
            return True
        if budget.remaining < 0:
            budget.relieve(self)
        return budget.remaining < 0

    def is_held_back(self, waiting: int) -> bool:
        """Whether the sender should wait, because so many bytes wait for a slow receiver."""
        budget = self._budget
        return waiting > budget.much and budget.remaining < budget.limit >> 1

    def evict(self) -> None:
        """Cut the connection off."""
        cut_off = self._evict
        self.close()
        cut_off()

    def close(self) -> None:
        """The connection is gone: release all that it kept."""
        if self.is_open:
            self.is_open = False
            self._evict = _nothing  # which holds the connection
            self._budget.close(self)


class MemoryBudget:
    """A bound on the bytes that all connections of a relay keep together."""

    __slots__ = ("_accounts", "limit", "much", "overdraft", "remaining", "reserve")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.remaining = limit
        self.reserve = limit >> 2
        self.much = limit >> 4
        self.overdraft = max(limit >> 3, LEAST_OVERDRAFT)
        self._accounts: dict[MemoryAccount, None] = {}

    def open(self, evict: Callable[[], None]) -> MemoryAccount:
        """Open the account of a new connection. `evict` cuts that connection off."""
        account = MemoryAccount(self, evict)
        self._accounts[account] = None
        return account

    def close(self, account: MemoryAccount) -> None:
        """Close an account, and release what it kept."""
        self._accounts.pop(account, None)
        self.remaining += account.used
        account.used = 0

    def relieve(self, account: MemoryAccount) -> None:
        """The budget is overdrawn because of `account`: cut off the connection that keeps most.

        Where that is the account itself, its next messages are not kept (`lacks_room`). It is cut off only if it keeps
        more all the same.
        """
        while self.remaining < 0 and self._accounts:
            greediest = max(self._accounts, key=_used)
            if greediest is account and self.remaining >= -self.overdraft:
                return
            greediest.evict()


class StreamAllowance:
    """How many streams a connection may have open: those that are charged to its account, `size` bytes each, many at a
    time.
    """

    __slots__ = ("_memory", "_size", "granted")

    def __init__(self, memory: MemoryAccount, size: int) -> None:
        self._memory = memory
        self._size = size
        self.granted = FREE_STREAMS

    def extend(self, open_count: int) -> bool:
        """One more than so many streams shall be open: whether there is memory for it."""
        if open_count < self.granted:
            return True
        size = STREAMS_AT_ONCE * self._size
        if self._memory.charge(size) and self._memory.lacks_room:
            self._memory.release(size)
            return False
        self.granted += STREAMS_AT_ONCE
        return True

    def shrink(self, open_count: int) -> None:
        """Release what was charged for streams that have ended, where so many are open and may become more again."""
        while self.granted > FREE_STREAMS and self.granted - open_count >= 2 * STREAMS_AT_ONCE:
            self.granted -= STREAMS_AT_ONCE
            self._memory.release(STREAMS_AT_ONCE * self._size)


def _nothing() -> None:
    """Nobody is left to be cut off."""


def _used(account: MemoryAccount) -> int:
    return account.used
