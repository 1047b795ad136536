"""Recorded traffic judged as it would have been live, in its order, with the evidence as it would have grown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin.sinks.evidence import Evidence
from tocsin.sinks.tally import POOLED
from tocsin_calibration import Promise
from tocsin_calibration.sessions.rule import Progress

STEP = 50  # responses, or sessions, between looks at the evidence
STRETCHES = 60  # of a picture
LOUDEST = 20  # alarms that are told one by one
WIDE = 2.58  # standard deviations: 99 times of 100


@dataclass(frozen=True)
class Stretch:
    """Some consecutive responses or sessions: the last of them, the share that alarmed, how far chance takes it."""

    end: int
    rate: float
    ceiling: float


@dataclass(frozen=True)
class Loud:
    """An alarm: its row in the order of time, its severity, joint p-value and p-values by detector."""

    row: int
    severity: str
    p: float
    detectors: dict[str, float]


@dataclass(frozen=True)
class Replay:
    """What would have happened. `trials` are what the promise is about, responses or sessions that ended; `paged` is
    the number of trials after which evidence would have paged, None where it would not.
    """

    rows: int
    trials: int
    alarms: dict[str, int]  # by severity or a graver one, among trials
    pvalues: list[float]
    stretches: dict[str, list[Stretch]]
    seen_at: list[int]
    evidence: dict[str, list[float]]  # log, at `seen_at`
    drift: list[float]
    paged: dict[str, int | None]
    drifted: int | None
    loudest: list[Loud]

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "rows": self.rows,
            "trials": self.trials,
            "alarms": self.alarms,
            "paged": self.paged,
            "drifted": self.drifted,
            "loudest": [vars(one) for one in self.loudest],
        }


def replay(
    promise: Promise,
    scores: NDArray[np.floating],
    *,
    groups: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    delta: float = 0.01,
    restart: int = 1_000,
) -> Replay:
    """Judge detectors' scores (n, d) in their order.

    `groups` and `sessions` (n,) name each row's, where the promise has them; evidence pages at `delta`, shared by
    severities as `tocsin rules` shares it.
    """
    progress = _progress(promise, sessions) if sessions is not None and promise.sessions is not None else None
    judged = promise.judge(scores, groups, progress)
    own = list(groups) if groups is not None and promise.groups else None
    trials: list[str | None] = judged.severities
    if progress is not None:
        trials = [stretch for one in _each_once(progress) for stretch in (*one.ended, *_last(promise, one))]
    evidence = Evidence(promise, restart, fixed=True, seed=0)
    seen_at: list[int] = []
    drift: list[float] = []
    told: dict[str, list[float]] = {name: [] for name in promise.alphas}
    for start in range(0, len(trials), STEP):
        part = slice(start, start + STEP)
        evidence.read(tally_of(promise, trials[part], None if own is None else own[part], judged.joint[part]))
        for name, value in evidence.promise().items():
            told[name].append(value)
        drift.append(evidence.drift() or 0.0)
        seen_at.append(min(start + STEP, len(trials)))
    graver = {name: set(list(promise.alphas)[: at + 1]) for at, name in enumerate(promise.alphas)}
    limit = log(len(promise.alphas) / delta)
    return Replay(
        rows=len(scores),
        trials=len(trials),
        alarms={name: sum(one in graver[name] for one in trials) for name in promise.alphas},
        pvalues=judged.pvalues,
        stretches={name: _stretches(promise, name, [one in graver[name] for one in trials]) for name in promise.alphas},
        seen_at=seen_at,
        evidence=told,
        drift=drift,
        paged={name: _first(seen_at, values, limit) for name, values in told.items()},
        drifted=_first(seen_at, drift, log(1 / delta)),
        loudest=_loudest(promise, judged.severities, judged.pvalues, judged.by_detector),
    )


def _progress(promise: Promise, sessions: Sequence[str]) -> list[Progress]:
    """Each row's session; a row that names none is one by itself."""
    assert promise.sessions is not None
    known: dict[str, Progress] = {}
    found = []
    for name in sessions:
        one = promise.sessions.start() if not name else known.setdefault(name, promise.sessions.start())
        found.append(one)
    return found


def _each_once(progress: Sequence[Progress]) -> list[Progress]:
    return list({id(one): one for one in progress}.values())


def _last(promise: Promise, one: Progress) -> list[str | None]:
    """The stretch under way, which counts unless stretches have a fixed length and it is not complete."""
    assert promise.sessions is not None
    every = promise.sessions.every
    return [one.severity] if every is None or one.step == every else []


def tally_of(
    promise: Promise, severities: Sequence[str | None], groups: Sequence[str] | None, joint: Sequence[float]
) -> dict[str, Any]:
    """What a tally of these would say."""
    alarmed: dict[tuple[str, str], int] = {}
    of_group: dict[str, int] = {}
    for at, severity in enumerate(severities):
        group = groups[at] if groups is not None and groups[at] in promise.groups else POOLED
        if group != POOLED:
            of_group[group] = of_group.get(group, 0) + 1
        if severity is not None:
            alarmed[group, severity] = alarmed.get((group, severity), 0) + 1
    counted = [[*key, count] for key, count in alarmed.items()]
    scores = list(joint) if promise.sessions is None else []
    return {"rows": len(severities), "alarmed": counted, "of_group": of_group, "joint": scores, "sequence": []}


def _stretches(promise: Promise, severity: str, alarmed: Sequence[bool]) -> list[Stretch]:
    law = promise.laws[severity]
    found: list[Stretch] = []
    for part in np.array_split(np.asarray(alarmed), min(STRETCHES, max(1, len(alarmed) // STEP))):
        if not len(part):
            continue
        mean, size = law.mean_rate, len(part)
        spread = sqrt(mean * (1 - mean) / size * (law.n + 1 + size) / (law.n + 2))
        found.append(Stretch((found[-1].end if found else 0) + size, float(part.mean()), mean + WIDE * spread))
    return found


def _first(at: Sequence[int], values: Sequence[float], limit: float) -> int | None:
    return next((number for number, value in zip(at, values, strict=False) if value > limit), None)


def _loudest(
    promise: Promise,
    severities: Sequence[str | None],
    pvalues: Sequence[float],
    details: Sequence[Iterable[float]] | NDArray[np.float64],
) -> list[Loud]:
    rows = sorted((row for row, severity in enumerate(severities) if severity), key=lambda row: pvalues[row])
    found = []
    for row in rows[:LOUDEST]:
        severity = severities[row]
        assert severity is not None
        found.append(
            Loud(row, severity, pvalues[row], dict(zip(promise.detectors, map(float, details[row]), strict=True)))
        )
    return found
