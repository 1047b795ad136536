"""Streams of opinions drawn from pools, and the promise and evidence that the relay keeps for an opinion.

A stream with a change holds each opinion at most once. Drawn with replacement, two pools of opinions of the very same
kind of answers would soon be told apart: what repeats is the luck of the pool, and no change of the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
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
OTHER_HALF = "other half"
TESTS = ("promise", "quiet", "drift")
CALIBRATED = 2 / 3  # of the opinions before a change, those that a promise is calibrated on; the others are judged
LOOK = 5  # opinions between two looks at the evidence
CALIBRATION, LONG, LONG_LOOK = 400, 1_000, 25  # of a stream without a change, drawn with replacement from one pool
RESTART = ModelConfig.model_fields["restart"].default


class Change(NamedTuple):
    """Which answers come instead of which: all at once, or `slowly`, their share rising steadily while those before
    last. Of OTHER_HALF, half of the opinions come instead of the other half, which each run draws anew: no change.
    """

    name: str
    kind: str
    before: str = USUAL
    slowly: bool = False


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
    """Opinions from the beginning of a change until each evidence finds it, infinite where it does not before there are
    no more; without evidence that has alerted before.
    """
    random = np.random.default_rng([11, run])
    before = random.permutation(pools[change.before])
    if change.kind == OTHER_HALF:
        before, after = np.array_split(before, 2)
    else:
        after = random.permutation(pools[change.kind])
    calibration, rest = np.split(before, [round(len(before) * CALIBRATED)])
    watched = Watched(scorer, calibration, run)
    if change.slowly:
        stream = _mixed(rest, after, random)
    else:
        watched.take(rest)
        stream = after
    by_test = dict.fromkeys(set(TESTS) - watched.alerts(), inf)
    for begin in range(0, len(stream), LOOK):
        watched.take(stream[begin : begin + LOOK])
        for test in watched.alerts():
            if by_test.get(test) == inf:
                by_test[test] = min(begin + LOOK, len(stream))
    return by_test


def _mixed(before: Pool, after: Pool, random: np.random.Generator) -> Pool:
    """All of both, the share of `after` rising from none at the beginning to all when those of `before` have ended."""
    rise = 2 * len(before)
    share = np.minimum(np.arange(1, len(before) + len(after) + 1) / rise, 1)
    is_after = random.random(len(share)) < share
    is_after[np.cumsum(~is_after) > len(before)] = True  # there are no more of them
    is_after[np.cumsum(is_after) > len(after)] = False
    opinions = iter(before.tolist()), iter(after.tolist())
    return np.array([value for of in is_after if (value := next(opinions[int(of)], None)) is not None], np.float32)


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
