"""Streams of opinions drawn from pools, and the promise and evidence that the relay keeps for an opinion."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import inf, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.second_opinion.pools import USUAL, Pool
from tocsin.configuration.model import ModelConfig
from tocsin.replay.replay import tally_of
from tocsin.sinks.evidence import Evidence
from tocsin_calibration import FalseAlarmLaw, calibrate
from tocsin_detectors import Observations, Scorer

SEVERITY, ALPHA, DELTA = "critical", 0.05, 0.01
TESTS = ("promise", "quiet", "drift")
CALIBRATION = 400  # opinions that a promise is calibrated on
CALM, MOST = 100, 2_000  # opinions before a change, and behind it at most
LOOKS = (*range(5, 200, 5), *range(200, MOST + 1, 25))  # opinions behind a change at which evidence is looked at
LONG, LONG_LOOK = 1_000, 25  # opinions of a stream without a change, and between two looks at its evidence
RESTART = ModelConfig.model_fields["restart"].default


class Change(NamedTuple):
    """Which answers come instead of which, and over how many opinions their share rises to all."""

    name: str
    kind: str
    before: str = USUAL
    rise: int = 1


class Calm(NamedTuple):
    """Of streams without a change: how many alert falsely by each evidence, false alarms, and the laws of these."""

    alerts: dict[str, int]
    alarms: int
    laws: list[tuple[FalseAlarmLaw, int]]


class Watched:
    """A promise calibrated on opinions, and its evidence."""

    def __init__(self, scorer: Scorer, calibration: Pool, seed: int) -> None:
        (self._name,), self._scorer = scorer.signals, scorer
        self.promise = calibrate(self._scored(calibration), {SEVERITY: ALPHA}, detectors=scorer.detectors, seed=seed)
        self._evidence = Evidence(self.promise, RESTART, fixed=True, seed=seed)

    def take(self, opinions: Pool) -> int:
        """Judge and count opinions; how many alarmed."""
        judged = self.promise.judge(self._scored(opinions))
        self._evidence.read(tally_of(self.promise, judged.severities, None, judged.joint))
        return sum(severity is not None for severity in judged.severities)

    def alerts(self) -> set[str]:
        """Those of TESTS whose evidence reaches 1/delta."""
        logs = {"promise": self._evidence.promise()[SEVERITY], "drift": self._evidence.drift()}
        logs["quiet"] = self._evidence.quiet().get(SEVERITY)
        return {name for name, value in logs.items() if value is not None and value >= log(1 / DELTA)}

    def _scored(self, opinions: Pool) -> NDArray[np.float32]:
        return np.asarray(self._scorer(Observations({self._name: opinions[:, None]})), np.float32)


def delays(scorer: Scorer, pools: Mapping[str, Pool], change: Change, run: int) -> dict[str, float]:
    """Opinions from a change until each evidence finds it, infinite where it does not; without evidence that has
    alerted before the change came.
    """
    random = np.random.default_rng([11, run])
    watched = Watched(scorer, random.choice(pools[change.before], CALIBRATION), run)
    watched.take(random.choice(pools[change.before], CALM))
    by_test = dict.fromkeys(set(TESTS) - watched.alerts(), inf)
    has_changed = random.random(MOST) < np.minimum(np.arange(1, MOST + 1) / change.rise, 1)
    stream = np.where(has_changed, random.choice(pools[change.kind], MOST), random.choice(pools[change.before], MOST))
    for begin, end in pairwise((0, *LOOKS)):
        watched.take(stream[begin:end])
        for test in watched.alerts():
            if by_test.get(test) == inf:
                by_test[test] = end
        if inf not in by_test.values():
            break
    return by_test


def calm(scorer: Scorer, usual: Pool, runs: int) -> Calm:
    """So many streams of LONG opinions without a change, each with a calibration set of its own."""
    alerts, laws, alarms = dict.fromkeys(TESTS, 0), [], 0
    for run in range(runs):
        random = np.random.default_rng([12, run])
        watched = Watched(scorer, random.choice(usual, CALIBRATION), run)
        alerted: set[str] = set()
        for part in np.split(random.choice(usual, LONG), LONG // LONG_LOOK):
            alarms += watched.take(part)
            alerted |= watched.alerts()
        for test in alerted:
            alerts[test] += 1
        laws.append((watched.promise.laws[SEVERITY], LONG))
    return Calm(alerts, alarms, laws)
