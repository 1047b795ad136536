"""Judges recorded traffic as serving would have, in its order, with the evidence as it would have grown."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin.sinks.evidence import Evidence
from tocsin.sinks.finding import Finding
from tocsin.sinks.tally import POOLED
from tocsin_calibration import Promise
from tocsin_calibration.online.inputs import STRIDE
from tocsin_calibration.sessions.rule import Progress

LOOK_INTERVAL = 50  # responses, or sessions, between looks at the evidence
STRETCHES = 60  # of a picture
ALARMS_SHOWN = 20  # alarms that are listed one by one
Z_OF_99 = 2.58  # standard deviations: 99 times of 100


@dataclass(frozen=True)
class Stretch:
    """Some consecutive responses or sessions: the last of them, the share that alarmed, how far chance takes it."""

    end: int
    rate: float
    ceiling: float


@dataclass(frozen=True)
class ReplayedAlarm:
    """An alarm: its row in the order of time, its severity, joint p-value and p-values by detector."""

    row: int
    severity: str
    p: float
    detectors: dict[str, float]


@dataclass(frozen=True)
class Replay:
    """What would have happened. `trials` are the units of the promise, responses or sessions that ended; `paged` is the
    number of trials after which evidence would have fired an alert, None where it would not.
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
    loudest: list[ReplayedAlarm]
    inputs: list[float]  # log of the evidence that inputs have changed, at `seen_at`; empty where they are not watched
    inputs_changed: int | None
    finding: Finding | None = None  # the last that was beyond a limit; times in it are numbers of trials

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "rows": self.rows,
            "trials": self.trials,
            "alarms": self.alarms,
            "paged": self.paged,
            "drifted": self.drifted,
            "inputs_changed": self.inputs_changed,
            "loudest": [vars(alarm) for alarm in self.loudest],
            "finding": None if self.finding is None else self.finding.facts(timed=False),
        }


def replay(
    promise: Promise,
    scores: NDArray[np.floating],
    *,
    groups: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    versions: Sequence[str] | None = None,
    inputs: NDArray[np.floating] | None = None,
    delta: float = 0.01,
    restart: int = 1_000,
) -> Replay:
    """Judge detectors' scores (n, d) in their order.

    `groups` and `sessions` (n,) name each row's, where the promise has them; `versions` (n,) are the model's.
    `inputs` (n, E): the signals by which changes of inputs are watched, side by side, where the promise watches them.
    Evidence fires an alert at `delta`, shared among severities as `tocsin rules` shares it.
    """
    progress = _progress(promise, sessions) if sessions is not None and promise.sessions is not None else None
    judged = promise.judge(scores, groups, progress)
    row_groups = list(groups) if groups is not None and promise.groups else None
    trials: list[str | None] = judged.severities
    if progress is not None:
        trials = [
            severity for session in _each_once(progress) for severity in (*session.ended, *_last(promise, session))
        ]
    looks = _Looks(promise, restart, delta)
    shown = features_of(promise, inputs)
    for start in range(0, len(trials), LOOK_INTERVAL):
        end = min(start + LOOK_INTERVAL, len(trials))
        part = slice(start, end)
        looks.take(
            end,
            tally_of(
                promise,
                trials[part],
                None if row_groups is None else row_groups[part],
                judged.joint[part],
                scores[part],
                None if versions is None else versions[part],
                None if shown is None else shown[-(-start // STRIDE) : -(-end // STRIDE)],
            ),
        )
    names = list(promise.alphas)
    alarmed = {
        name: [severity in names[: at + 1] for severity in trials]  # at this severity or a graver one
        for at, name in enumerate(names)
    }
    return Replay(
        rows=len(scores),
        trials=len(trials),
        alarms={name: sum(alarms) for name, alarms in alarmed.items()},
        pvalues=judged.pvalues,
        stretches={name: _stretches(promise, name, alarms) for name, alarms in alarmed.items()},
        seen_at=looks.seen_at,
        evidence=looks.by_severity,
        drift=looks.drift,
        paged={name: looks.first_above(values, looks.limits[0]) for name, values in looks.by_severity.items()},
        drifted=looks.first_above(looks.drift, looks.limits[1]),
        loudest=_lowest_pvalues(promise, judged.severities, judged.pvalues, judged.by_detector),
        inputs=looks.inputs,
        inputs_changed=looks.first_above(looks.inputs, looks.limits[1]),
        finding=looks.finding,
    )


class _Looks:
    """The evidence at each look: `seen_at` trials, against the promise by severity, of drift, and of changed inputs
    where they are watched; each as a logarithm. `finding` is the last that was beyond one of the `limits`, of the
    promise and of drift.
    """

    def __init__(self, promise: Promise, restart: int, delta: float) -> None:
        self._unit = promise.unit
        self._trials = 0
        self._evidence = Evidence(promise, restart, fixed=True, seed=0, clock=lambda: float(self._trials))
        self.limits = log(len(promise.alphas) / delta), log(1 / delta)
        self.seen_at: list[int] = []
        self.by_severity: dict[str, list[float]] = {name: [] for name in promise.alphas}
        self.drift: list[float] = []
        self.inputs: list[float] = []
        self.finding: Finding | None = None

    def take(self, trials: int, facts: dict[str, Any]) -> None:
        """Look after so many trials; `facts` is the tally of those since the last look."""
        self._trials = trials
        evidence = self._evidence
        evidence.read(facts)
        against, drift, by_inputs = evidence.promise(), evidence.drift() or 0.0, evidence.inputs()
        for name, value in against.items():
            self.by_severity[name].append(value)
        self.drift.append(drift)
        self.seen_at.append(trials)
        if by_inputs is not None and "inputs" in facts:
            self.inputs.append(by_inputs)
        causes = evidence.causes()
        beyond = Finding.of(evidence, against, drift, causes, self.limits, self._unit, by_inputs)
        self.finding = beyond or self.finding

    def first_above(self, values: Sequence[float], limit: float) -> int | None:
        """After how many trials one of these values, a look each, was above the limit; None where none was."""
        return next((at for at, value in zip(self.seen_at, values, strict=False) if value > limit), None)


def _progress(promise: Promise, sessions: Sequence[str]) -> list[Progress]:
    """Each row's session. A row that names none is its own."""
    assert promise.sessions is not None
    by_session: dict[str, Progress] = {}
    result = []
    for name in sessions:
        progress = promise.sessions.start() if not name else by_session.setdefault(name, promise.sessions.start())
        result.append(progress)
    return result


def _each_once(progress: Sequence[Progress]) -> list[Progress]:
    """Each session once, in the order of first rows."""
    return list({id(item): item for item in progress}.values())


def _last(promise: Promise, progress: Progress) -> list[str | None]:
    """The stretch under way, which counts unless stretches have a fixed length and it is not complete."""
    assert promise.sessions is not None
    every = promise.sessions.every
    return [progress.severity] if every is None or progress.step == every else []


def tally_of(
    promise: Promise,
    severities: Sequence[str | None],
    groups: Sequence[str] | None,
    joint: Sequence[float],
    scores: NDArray[np.floating] | None = None,
    versions: Sequence[str] | None = None,
    inputs: NDArray[np.floating] | None = None,
) -> dict[str, Any]:
    """What a tally of these would say; `scores` (n, d) are detectors', `versions` (n,) those of the model, `inputs`
    (n / STRIDE, k + 1) the features of every STRIDE-th.
    """
    alarmed: dict[tuple[str, str], int] = {}
    of_group: dict[str, int] = {}
    for at, severity in enumerate(severities):
        group = groups[at] if groups is not None and groups[at] in promise.groups else POOLED
        if group != POOLED:
            of_group[group] = of_group.get(group, 0) + 1
        if severity is not None:
            alarmed[group, severity] = alarmed.get((group, severity), 0) + 1
    facts: dict[str, Any] = {"rows": len(severities), "alarmed": [[*key, count] for key, count in alarmed.items()]}
    facts |= {"of_group": of_group, "joint": [], "sequence": [], "by_detector": "", "versions": [], "groups": []}
    if promise.sessions is None:
        facts["joint"] = list(joint)
        if scores is not None:
            facts["by_detector"] = b64encode(np.ascontiguousarray(scores, np.float32).tobytes()).decode()
            names = versions or [""] * len(severities)
            facts["versions"] = [(version, len(list(run))) for version, run in groupby(names)]
            facts["groups"] = list(groups or ())
        if inputs is not None:
            facts["inputs"] = b64encode(np.ascontiguousarray(inputs, np.float32).tobytes()).decode()
    return facts


def features_of(promise: Promise, signals: NDArray[np.floating] | None) -> NDArray[np.float64] | None:
    """Of every STRIDE-th of these signals (n, E) what the test of inputs sees, None where inputs are not watched."""
    if signals is None or promise.inputs is None or not promise.watches_drift:
        return None
    return promise.inputs.features(signals[::STRIDE])


def _stretches(promise: Promise, severity: str, alarmed: Sequence[bool]) -> list[Stretch]:
    """The share of alarms in equal stretches of the traffic, and where chance takes each 99 times of 100: the mean of
    the alarm rate's Beta law and so many standard deviations of a Beta-Binomial share.
    """
    law = promise.laws[severity]
    result: list[Stretch] = []
    for part in np.array_split(np.asarray(alarmed), min(STRETCHES, max(1, len(alarmed) // LOOK_INTERVAL))):
        if not len(part):
            continue
        mean, size = law.mean_rate, len(part)
        spread = sqrt(mean * (1 - mean) / size * (law.n + 1 + size) / (law.n + 2))
        result.append(Stretch((result[-1].end if result else 0) + size, float(part.mean()), mean + Z_OF_99 * spread))
    return result


def _lowest_pvalues(
    promise: Promise,
    severities: Sequence[str | None],
    pvalues: Sequence[float],
    details: Sequence[Iterable[float]] | NDArray[np.float64],
) -> list[ReplayedAlarm]:
    """The alarms with the lowest p-values, the lowest first."""
    rows = sorted((row for row, severity in enumerate(severities) if severity), key=lambda row: pvalues[row])
    result = []
    for row in rows[:ALARMS_SHOWN]:
        severity = severities[row]
        assert severity is not None
        result.append(
            ReplayedAlarm(
                row, severity, pvalues[row], dict(zip(promise.detectors, map(float, details[row]), strict=True))
            )
        )
    return result
