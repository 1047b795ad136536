"""What evidence has found of one model: which part of its traffic has changed and since when, as data and as words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tocsin.sinks.causes import Cause
from tocsin.sinks.evidence import Evidence
from tocsin_calibration.online.changes import ChangeTime

MIN_RANK_SHIFT = 0.1  # how far the mean rank must have moved for a direction to be told
MAX_CAUSES = 5  # causes of a kind that words list


class Finding(NamedTuple):
    """What exceeds its limit: severities whose promise is `broken`, drift, and `causes`, the strongest of each kind
    first. `change` is when the traffic as a whole probably changed, in `unit`s, None where that is unknown.
    """

    broken: tuple[str, ...]
    drifted: bool
    causes: tuple[Cause, ...]
    change: ChangeTime | None
    unit: str
    inputs: bool = False  # whether the signals of inputs have changed
    groups: tuple[str, ...] = ()  # of a broken promise by group, those that break theirs
    text: tuple[str, ...] = ()  # since when, and which, a sentence each

    @classmethod
    def of(
        cls,
        evidence: Evidence,
        promise: dict[str, float],
        drift: float | None,
        causes: Sequence[Cause],
        limits: tuple[float, float],
        unit: str,
        inputs: float | None = None,
    ) -> Finding | None:
        """What exceeds the limits of the promise and of drift; None where nothing does."""
        limit, limit_of_drift = limits
        broken = tuple(name for name, value in promise.items() if value > limit)
        drifted = drift is not None and drift > limit_of_drift
        named: list[Cause] = []
        for kind in dict.fromkeys(cause.kind for cause in causes):
            of_kind = [cause for cause in causes if cause.kind == kind and cause.log_evalue > limit_of_drift]
            named += [evidence.looked_into(cause) for cause in of_kind[:1]] + of_kind[1:]
        moved = inputs is not None and inputs > limit_of_drift
        if not (broken or drifted or named or moved):
            return None
        change = evidence.change() if broken or drifted or named else None
        groups = [g.name for g in evidence.by_group() if max(g.log_evalues.values(), default=0.0) > limit]
        finding = cls(broken, drifted, tuple(named), change, unit, moved, tuple(groups))
        return finding._replace(text=tuple(finding._words()))

    @property
    def chief(self) -> tuple[Cause, ...]:
        """The cause with the most evidence of each kind."""
        return tuple({cause.kind: cause for cause in reversed(self.causes)}.values())[::-1]

    def facts(self, *, timed: bool = True) -> dict[str, Any]:
        """The finding as data for JSON. Without `timed`, times are left out."""
        facts: dict[str, Any] = {
            "broken": list(self.broken),
            "drifted": self.drifted,
            "inputs": self.inputs,
            "groups": list(self.groups),
            "since": _facts(self.change, timed),
            "causes": [
                {
                    "kind": cause.kind,
                    "name": cause.name,
                    "evidence": cause.log_evalue,
                    "since": _facts(cause.change, timed),
                }
                for cause in self.causes
            ],
        }
        return facts | ({"words": list(self.text)} if timed else {})

    def brief(self) -> dict[str, Any]:
        """The same with the strongest cause of each kind only, and the number of causes."""
        return {**self._replace(causes=self.chief).facts(), "parts": len(self.causes)}

    def _words(self) -> Iterator[str]:
        if self.change is not None:
            yield change_text(self.change, self.unit)
        if self.groups:
            yield self.of_groups()
        yield from self.which()
        if self.inputs:
            yield self.of_inputs()

    def of_inputs(self) -> str:
        """What a change of the inputs has done to the alarms so far."""
        if self.broken:
            return "inputs changed, and alarms too"
        return "inputs changed, and scores too" if self.drifted or self.causes else "inputs changed, alarms as promised"

    def of_groups(self) -> str:
        """Which groups alarm more often than each is promised to."""
        rest = f" and {len(self.groups) - MAX_CAUSES} more" if len(self.groups) > MAX_CAUSES else ""
        names = ", ".join(_quoted(name) or "all others together" for name in self.groups[:MAX_CAUSES])
        return f"more alarms than promised in group{'s' if len(self.groups) > 1 else ''} {names}{rest}"

    def which(self) -> Iterator[str]:
        """The strongest cause of each kind in words, and which others have changed."""
        for cause in self.chief:
            others = [other.name for other in self.causes if other.kind == cause.kind and other is not cause]
            more = ""
            if others:
                rest = f" and {len(others) - MAX_CAUSES} more" if len(others) > MAX_CAUSES else ""
                more = f"; also {', '.join(map(_quoted, others[:MAX_CAUSES]))}{rest}"
            yield f"{_subject(cause)} {_direction(cause.change)} (evidence e^{cause.log_evalue:.1f}){more}"


def change_text(change: ChangeTime, unit: str = "responses") -> str:
    """When a change probably began, in words."""
    when = datetime.fromtimestamp(change.when, UTC)
    between = f"between {change.latest:,} and {change.earliest:,}"
    return f"changed about {when:%Y-%m-%d %H:%M:%S} UTC, {change.ago:,} {unit} ago ({between})"


def _subject(cause: Cause) -> str:
    if cause.kind == "detector":
        return f"detector {_quoted(cause.name)}: scores"
    if cause.kind == "group":
        return f"group {_quoted(cause.name)}: scores" if cause.name else "groups without a promise of their own: scores"
    return f"version {_quoted(cause.name)}: scores" if cause.name else "responses that name no version: scores"


def _direction(change: ChangeTime | None) -> str:
    if change is None or abs(change.direction) < MIN_RANK_SHIFT:
        return "are distributed otherwise"
    return "are higher" if change.direction > 0 else "are lower"


def _quoted(name: str) -> str:
    """A name on one line; callers may have chosen it."""
    return name if name.isprintable() else repr(name)


def _facts(change: ChangeTime | None, timed: bool) -> dict[str, Any] | None:
    return None if change is None else {k: v for k, v in change._asdict().items() if timed or k != "when"}
