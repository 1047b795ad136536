"""The items of a response that wait in their order, until each may go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any


class HeldItems:
    """Items go on once they may and nothing is before them that may not. Places count from 0 at the first item of the
    response, those that have gone on included.
    """

    __slots__ = ("_cleared", "_first", "_items")

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._first = 0  # the place of the first item that waits
        self._cleared: set[int] | None = None  # places of those that may go, and wait for others

    @property
    def next_place(self) -> int:
        """The place that the next item will have."""
        return self._first + len(self._items)

    def append(self, item: Any) -> None:
        """Another item has come, and waits."""
        self._items.append(item)

    def release(self, places: Sequence[int]) -> Sequence[Any]:
        """The items at these places may go on: those that do so now, in their order."""
        items = self._items
        if not items:
            return ()
        cleared = self._cleared
        if not cleared and (len(places) == 1 or len(items) == 1) and self._first in places:  # mostly so
            self._first += 1
            return (items.popleft(),)
        if cleared is None:
            cleared = self._cleared = set()
        cleared.update(places)
        ready = []
        while items and self._first in cleared:
            cleared.discard(self._first)
            self._first += 1
            ready.append(items.popleft())
        return ready

    def take_all(self) -> Sequence[Any]:
        """All items that wait, in their order: none waits any more."""
        items, self._items = self._items, deque()
        return items

    def clear(self) -> None:
        """Drop what waits."""
        self._items.clear()
