"""What judgement reports to the consumers of verdicts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.judgement.call import Call
from tocsin.log_throttle import LogThrottle, and_more

log = logging.getLogger("tocsin")

Signals = Mapping[str, NDArray[np.float32]]


class Scored(NamedTuple):
    """A judged batch of one model."""

    model: str
    calls: Sequence[Call]  # each with its verdict
    scores: NDArray[np.float32]  # (rows of all calls, detectors)
    seconds: float  # from reading the messages to the verdicts, for the whole batch
    joint: Sequence[float] = ()  # nonconformity, one a row
    groups: Sequence[str] | None = None  # each row's, where the bundle has a promise a group
    ended: Sequence[str | None] | None = None  # severities of sessions that ended, where the promise is for sessions
    keyless: tuple[int, int] = (0, 0)  # calls that name no session, and no group, where the promise asks for one
    signals: Callable[[], Signals] = dict  # gives those of all calls, (rows of all calls, width) each
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})  # of one row of each signal

    def without(self, rows: Collection[int]) -> Scored:
        """The same batch without these rows: nobody waits for the verdicts of their calls."""
        at, signals = list(rows), self.signals
        return self._replace(
            scores=np.delete(self.scores, at, axis=0),
            signals=lambda: {name: np.delete(values, at, axis=0) for name, values in signals().items()},
            joint=[value for row, value in enumerate(self.joint) if row not in rows],
            groups=self.groups and [group for row, group in enumerate(self.groups) if row not in rows],
        )


class Sink:
    """A consumer of verdicts. Its methods run on the serving path, in any thread: they must be quick and must not
    raise.

    A sink inherits from this class and overrides the methods that it needs. `takes_runs`: it also takes calls that
    stand for several messages of a stream (`Call.responses`), one p-value each, whose messages it does not see. Without
    such a sink, every message is a call of its own.
    """

    takes_runs = False

    def scored(self, batch: Scored) -> None:
        """A batch of one model was judged."""

    def unscored(self, call: Call) -> None:
        """A call passed without judgement. Its verdict has the reason."""

    def acted(self, call: Call, action: str) -> None:
        """In enforce, something was done to a call: one of `verdict.ACTIONS`, or `refused` when it failed closed."""

    def shadowed(self, call: Call, severity: str | None) -> None:
        """A judged call was scored by a candidate bundle too; `failed` when it could not be."""


class Sinks(list[Sink]):
    """Reports to every sink. A sink that raises does not affect the others; the log reports it."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        super().__init__(sinks)
        self._throttle = LogThrottle()

    @property
    def take_runs(self) -> bool:
        """Whether all of them take calls that stand for several messages."""
        return all(getattr(sink, "takes_runs", False) for sink in self)

    def scored(self, batch: Scored) -> None:
        """See Sink."""
        for sink in self:
            try:
                sink.scored(batch)
            except Exception as error:
                self._failed(sink, error)

    def unscored(self, call: Call) -> None:
        """See Sink."""
        for sink in self:
            try:
                sink.unscored(call)
            except Exception as error:
                self._failed(sink, error)

    def acted(self, call: Call, action: str) -> None:
        """See Sink."""
        for sink in self:
            try:
                sink.acted(call, action)
            except Exception as error:
                self._failed(sink, error)

    def shadowed(self, call: Call, severity: str | None) -> None:
        """See Sink."""
        for sink in self:
            try:
                sink.shadowed(call, severity)
            except Exception as error:
                self._failed(sink, error)

    def _failed(self, sink: Sink, error: Exception) -> None:
        name = type(sink).__name__
        if (suppressed := self._throttle.admit(name)) is not None:
            what_failed = f"{type(error).__name__}: {error}{and_more(suppressed)}"
            log.error("sink %s failed and lost a report: %s", name, what_failed)
