"""What is found in a gateway's configuration, and what comes of it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Effect(StrEnum):
    """What a line of the gateway's configuration does to responses, the worst first."""

    PASSES = "passes unjudged"
    UNSEEN = "cannot be told"
    NOT_HELD = "is judged, and not withheld"
    MAY_PASS = "may pass unjudged"
    FAILS = "fails"
    UNTOLD = "is judged, and its verdict is lost"
    NOTE = "note"


class EnvoyFault(NamedTuple):
    """One line that does not fit: what is wrong, what it does, and what to write in its place."""

    effect: Effect
    where: str
    line: int
    wrong: str
    change: str


def breaks_closed(finding: EnvoyFault, *, closed: bool) -> bool:
    """Whether responses pass unjudged that must not: always where nothing is judged, and with `fail: closed` also
    where that depends on load or on what is not seen.
    """
    if finding.effect is Effect.PASSES:
        return True
    return closed and finding.effect in (Effect.UNSEEN, Effect.NOT_HELD, Effect.MAY_PASS)
