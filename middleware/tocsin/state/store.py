"""What judgement asks of whoever remembers sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Protocol

from tocsin_calibration.sessions.rule import Progress

# This replica's counts by name, those of others that it was told included -> what others have counted since.
Exchange = Callable[[Mapping[str, Sequence[int]]], Mapping[str, Sequence[int]]]


class SessionStore(Protocol):
    """Remembers how far each session of one model has come, and tells when sessions have ended.

    A batch is judged between `begin` and `end`, under `lock`. `shared`: asking it takes a round trip, so that batches
    should not hold up an event loop; and it wants to know the scores.
    """

    shared: bool
    lock: Lock

    def begin(self, keys: Sequence[str], joint: Sequence[float]) -> list[Progress]:
        """The progress of each row's session before the batch: one object a session, which judging moves on. Without a
        key a row is a session of its own. `joint` are the rows' nonconformity scores, where `shared`.
        """
        ...

    def end(self, keys: Sequence[str], progress: Sequence[Progress]) -> list[str | None]:
        """The worst severity of each session, or stretch of one, that has ended since this was last asked."""
        ...
