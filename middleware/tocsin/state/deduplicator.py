"""Which replica reports an alarm that several of them raise for one session."""

from __future__ import annotations

from typing import Literal, Protocol

Claim = Literal["ours", "elsewhere", "told"]


class Deduplicator(Protocol):
    """Keeps track of the alarms that any replica has reported."""

    def claim(self, alarm: str) -> Claim:
        """Whether this replica is to report an alarm, another is doing so, or one has done so lately."""
        ...

    def mark_delivered(self, alarm: str) -> None:
        """This replica has reported it."""
        ...
