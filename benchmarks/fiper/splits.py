"""Which rollouts calibrate and which are judged, and how a rule does on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.fiper.rules import Alarms, Rule
from benchmarks.fiper.scores import Scored
from tocsin_calibration.sessions.metrics import SessionMetrics, session_metrics


class Split(NamedTuple):
    """Safe rollouts that calibrate, safe ones as in training that are judged, and all others."""

    known: list[Scored]
    fresh: list[Scored]
    others: list[Scored]

    @classmethod
    def drawn(cls, rollouts: Sequence[Scored], calibrating: int, seed: int) -> Split:
        """So many safe rollouts, drawn by the seed, calibrate."""
        safe = [one for one in rollouts if one.kind == "usual" and one.success]
        order = np.random.default_rng([seed, calibrating]).permutation(len(safe))
        others = [one for one in rollouts if one.kind != "usual" or not one.success]
        return cls([safe[at] for at in order[:calibrating]], [safe[at] for at in order[calibrating:]], others)


class Told(NamedTuple):
    """How well failures were told, and alarms on rollouts that succeeded: as in training, and shifted."""

    metrics: SessionMetrics
    safe: tuple[int, int]  # alarms, of how many
    benign: tuple[int, int]


def told(alarms: Alarms, split: Split) -> Told:
    """Judge what did not calibrate."""
    judged = [*split.fresh, *split.others]
    first = alarms([one.scores for one in judged])
    metrics = session_metrics(first, [len(one.scores) for one in judged], [not one.success for one in judged])
    safe, others = first[: len(split.fresh)], zip(first[len(split.fresh) :], split.others, strict=True)
    return Told(metrics, _counted(safe), _counted([at for at, one in others if one.success]))


def _counted(first: Sequence[int | None]) -> tuple[int, int]:
    return sum(at is not None for at in first), len(first)


def over_seeds(rule: Rule, by_seed: Sequence[Sequence[Scored]], alpha: float, calibrating: int) -> list[Told]:
    """The rule with each seed's detectors and split."""
    found = []
    for seed, rollouts in enumerate(by_seed):
        split = Split.drawn(rollouts, calibrating, seed)
        found.append(told(rule.calibrated([one.scores for one in split.known], alpha, seed), split))
    return found
