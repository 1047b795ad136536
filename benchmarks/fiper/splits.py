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

    calibrating: list[Scored]
    fresh: list[Scored]
    others: list[Scored]

    @classmethod
    def drawn(cls, rollouts: Sequence[Scored], calibrating: int, seed: int) -> Split:
        """So many safe rollouts, drawn by the seed, calibrate."""
        safe = [rollout for rollout in rollouts if rollout.kind == "usual" and rollout.success]
        order = np.random.default_rng([seed, calibrating]).permutation(len(safe))
        others = [rollout for rollout in rollouts if rollout.kind != "usual" or not rollout.success]
        return cls([safe[at] for at in order[:calibrating]], [safe[at] for at in order[calibrating:]], others)


class Outcome(NamedTuple):
    """How well failures were told, and alarms on rollouts that succeeded: as in training, and shifted."""

    metrics: SessionMetrics
    safe: tuple[int, int]  # alarms, of how many
    benign: tuple[int, int]


def judge_split(alarms: Alarms, split: Split) -> Outcome:
    """Judge the rollouts that were not used for calibration."""
    judged = [*split.fresh, *split.others]
    first = alarms([rollout.scores for rollout in judged])
    metrics = session_metrics(
        first, [len(rollout.scores) for rollout in judged], [not rollout.success for rollout in judged]
    )
    safe, others = first[: len(split.fresh)], zip(first[len(split.fresh) :], split.others, strict=True)
    return Outcome(metrics, _counted(safe), _counted([at for at, rollout in others if rollout.success]))


def _counted(first: Sequence[int | None]) -> tuple[int, int]:
    return sum(at is not None for at in first), len(first)


def over_seeds(rule: Rule, by_seed: Sequence[Sequence[Scored]], alpha: float, calibrating: int) -> list[Outcome]:
    """The rule with each seed's detectors and split."""
    results = []
    for seed, rollouts in enumerate(by_seed):
        split = Split.drawn(rollouts, calibrating, seed)
        results.append(
            judge_split(rule.calibrated([rollout.scores for rollout in split.calibrating], alpha, seed), split)
        )
    return results
