"""Alarms that several replicas raise of one session, told by one of them."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Protocol

from tocsin.events.alarm import ALARM

Claim = Literal["ours", "elsewhere", "told"]


class Deduplicator(Protocol):
    """Keeps track of what has been told by any replica."""

    def claim(self, alarm: str) -> Claim:
        """Whether an alarm is ours to tell, is being told elsewhere, or has been told there lately."""
        ...

    def mark_delivered(self, alarm: str) -> None:
        """It has been told here."""
        ...


def alarm_of(line: bytes) -> str | None:
    """What an event shares with those of other replicas: session and severity, hidden. None for all that stand alone:
    sums, and alarms of no session.
    """
    content = json.loads(line)
    data = content["data"]
    if content["type"] != ALARM or not data["session"]:
        return None
    shared = "\0".join((data["model"], data["bundle"], data["session"], data["severity"]))
    return hashlib.blake2b(shared.encode(), digest_size=16).hexdigest()
