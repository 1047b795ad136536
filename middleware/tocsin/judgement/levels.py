"""Alarm levels that are not fixed thresholds: they follow feedback, or bound the share of false discoveries."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from tocsin.configuration.model import AdaptConfig, DiscoveryConfig
from tocsin_calibration import ACI, Addis, ConformalPID, DtACI, Feedback, LordPlusPlus, Saffron
from tocsin_calibration.online.adaptive import Adaptive, Additive
from tocsin_calibration.online.feedback import Outcome
from tocsin_calibration.selection.online_fdr import OnlineFDR


class Levels(Protocol):
    """Turns p-values into severities."""

    def decide(self, identifiers: Sequence[str], pvalues: Sequence[float]) -> list[str | None]:
        """The severity of each row, None for none."""
        ...

    def now(self) -> dict[str, float]:
        """The present level by severity: alarm when p is at or below it."""
        ...


class AdaptiveLevels:
    """One level for each severity, the most severe first. All of them follow the same labels. Safe between threads."""

    def __init__(self, config: AdaptConfig, alphas: Mapping[str, float]) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self._lock = threading.Lock()
        self._feedback = {
            name: Feedback(_adaptive_level(config, alpha), config.remembered) for name, alpha in alphas.items()
        }
        self._others = [0] * (2 * len(alphas))
        self.kind = f"{config.method}/{config.step:g}"

    def decide(self, identifiers: Sequence[str], pvalues: Sequence[float]) -> list[str | None]:
        with self._lock:
            return [self._severity(name, p) for name, p in zip(identifiers, pvalues, strict=True)]

    def _severity(self, identifier: str, pvalue: float) -> str | None:
        alarmed = [name for name, feedback in self._feedback.items() if feedback.decide(identifier, pvalue)]
        return alarmed[0] if alarmed else None

    def label(self, identifier: str, safe: bool) -> Outcome:
        """The truth about a response has become known."""
        with self._lock:
            outcomes = [feedback.label(identifier, safe) for feedback in self._feedback.values()]
            self.outcomes[outcomes[0]] += 1
        return outcomes[0]

    @property
    def additive(self) -> bool:
        """Whether levels depend on counts alone, which replicas can add up."""
        return all(hasattr(feedback.adaptive, "add") for feedback in self._feedback.values())

    def counts(self) -> list[int]:
        """For each severity: how many labelled responses were safe, and how many of those alarmed, here and in other
        replicas.
        """
        with self._lock:
            counts = [count for f in self._feedback.values() for count in (f.safe, f.false_alarms)]
            return [mine + theirs for mine, theirs in zip(counts, self._others, strict=True)]

    def add_counts(self, more: Sequence[int]) -> None:
        """Add what other replicas have learnt, in the order of `counts`."""
        with self._lock:
            self._others = [had + new for had, new in zip(self._others, more, strict=True)]
            for at, feedback in enumerate(self._feedback.values()):
                cast(Additive, feedback.adaptive).add(more[2 * at], more[2 * at + 1])

    def now(self) -> dict[str, float]:
        with self._lock:
            return {name: feedback.adaptive.level for name, feedback in self._feedback.items()}


class DiscoveryLevels:
    """Alarms of the mildest severity, of which at most a given share is false. Safe between threads."""

    def __init__(self, config: DiscoveryConfig, severity: str) -> None:
        make: dict[str, Callable[[float], OnlineFDR]] = {"lord": LordPlusPlus, "saffron": Saffron, "addis": Addis}
        self._lock = threading.Lock()
        self._control: OnlineFDR = make[config.method](config.false_share)
        self._severity = severity

    def decide(self, identifiers: Sequence[str], pvalues: Sequence[float]) -> list[str | None]:
        del identifiers
        with self._lock:
            return [self._severity if self._control.decide(p) else None for p in pvalues]

    def now(self) -> dict[str, float]:
        with self._lock:
            return {self._severity: self._control.level}


class Identifiers:
    """Makes identifiers of responses that are unique across restarts and replicas."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(4)  # begins them all
        self._numbers = itertools.count(1)

    def next(self) -> str:
        """The next one."""
        return f"{self.name}-{next(self._numbers)}"


def rows_of(identifier: str, rows: int) -> list[str]:
    """The identifiers of a response's rows. A response with one row has one."""
    return [identifier] if rows == 1 else [f"{identifier}/{row}" for row in range(rows)]


def _adaptive_level(config: AdaptConfig, alpha: float) -> Adaptive:
    """One severity's level, `alpha` at first, which the configured method moves with each label."""
    if config.method == "aci":
        return ACI(alpha, config.step)
    return DtACI(alpha) if config.method == "dtaci" else ConformalPID(alpha, config.step)
