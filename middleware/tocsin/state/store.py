"""The interface between judgement and the stores that remember sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Protocol

from tocsin_calibration.sessions.rule import Progress

# This replica's counts by name, those reported by others included -> what others have counted since.
Exchange = Callable[[Mapping[str, Sequence[int]]], Mapping[str, Sequence[int]]]


class Sharing(Protocol):
    """Whoever has counts that replicas add up."""

    def __call__(self, shared: Exchange, *, last: bool = False) -> None:
        """Give counts to `shared`, and add those that it tells of others. `last`: this process ends, so that whatever
        is not given now is lost.
        """
        ...


class SessionStore(Protocol):
    """Remembers the state of each session of one model, and reports which have ended.

    A batch is judged between `begin` and `end`, under `lock`. `shared`: each access takes a round trip, so that batches
    should not hold up an event loop; and `begin` needs the scores.
    """

    shared: bool
    lock: Lock

    def begin(self, keys: Sequence[str], joint: Sequence[float]) -> list[Progress]:
        """The state of each row's session before the batch: one object for each session, which judging updates. A row
        without a key is a session of its own. `joint` are the rows' nonconformity scores, where `shared`.
        """
        ...

    def end(self, keys: Sequence[str], progress: Sequence[Progress]) -> list[str | None]:
        """The most severe severity of each session, or stretch of one, that has ended since the last call."""
        ...
