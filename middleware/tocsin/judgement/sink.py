"""What judgement tells those who take note of verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tocsin.judgement.call import Call


class Scored(NamedTuple):
    """A judged batch of one model."""

    model: str
    calls: Sequence[Call]  # each with its verdict
    scores: NDArray[np.float32]  # (rows of all calls, detectors)
    seconds: float  # from reading the messages to the verdicts, for the whole batch
    joint: Sequence[float] = ()  # nonconformity, one a row
    groups: Sequence[str] | None = None  # each row's, where the bundle has a promise a group
    ended: Sequence[str | None] | None = None  # severities of sessions that ended, where the promise is for sessions


class Sink(Protocol):
    """Takes note of verdicts. Called on the serving path, from any thread: it must be quick, and must not raise."""

    def scored(self, batch: Scored) -> None:
        """A batch of one model was judged."""
        ...

    def unscored(self, call: Call) -> None:
        """A call passed without judgement; its verdict tells the reason."""
        ...

    def acted(self, call: Call, action: str) -> None:
        """In enforce, something was done to a call: one of `verdict.ACTIONS`, or `refused` when it failed closed."""
        ...

    def shadowed(self, call: Call, severity: str | None) -> None:
        """A judged call was scored by a candidate bundle too; `failed` when it could not be."""
        ...
