"""The known weakness: rollouts that are shifted and succeed all the same, and what a few of them win back.

Of the successful rollouts of all kinds of shift together, n are taken to adapt and the others judged. `added`: they
join the safe ones that calibrate. `weighted`: the safe ones count by how much they are like the n (logistic regression
on mean embeddings). `a group of its own`: the n alone carry a promise (Mondrian), on the scales of the safe ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.fiper.rules import Alarms, Promised
from benchmarks.fiper.scores import Scored
from benchmarks.fiper.splits import Split
from benchmarks.report import console
from tocsin_calibration import CalibrationError, Promise
from tocsin_calibration.thresholds.weighted import covariate_weights

ALPHA, CALIBRATING = 0.10, 150  # of 5%, ten rollouts could carry no promise
ADAPTING = (10, 20, 50)
COMPONENTS = 5  # of the embeddings, by which likeness is told

Way = Callable[[Promised, Sequence[Scored], Sequence[Scored], int], Alarms | None]


def shifted(tasks: Mapping[str, Sequence[Sequence[Scored]]], rule: Promised) -> list[dict[str, Any]]:
    """Alarms on shifted successes, on safe rollouts, and on failures, by way and n, meaned over tasks and seeds."""
    rows = []
    for task, by_seed in tasks.items():
        for seed, rollouts in enumerate(by_seed):
            split = Split.drawn(rollouts, CALIBRATING, seed)
            benign = [rollout for rollout in split.others if rollout.success]
            order = np.random.default_rng([seed, 5]).permutation(len(benign))
            judged = [benign[at] for at in order[max(ADAPTING) :]]
            failed = [rollout for rollout in split.others if not rollout.success]
            for n in ADAPTING:
                some = [benign[at] for at in order[:n]]
                for name, way in WAYS.items():
                    alarms = way(rule, split.calibrating, some, seed)
                    shares = (
                        [np.nan] * 3
                        if alarms is None
                        else [_share(alarms, part) for part in (judged, split.fresh, failed)]
                    )
                    rows.append(
                        {"task": task, "seed": seed, "n": n, "way": name} | dict(zip(PARTS, shares, strict=True))
                    )
    _show(rows)
    return rows


PARTS = ("shifted and successful", "safe", "failed")


def _none(rule: Promised, calibrating: Sequence[Scored], some: Sequence[Scored], seed: int) -> Alarms:
    del some
    return rule.calibrated([rollout.scores for rollout in calibrating], ALPHA, seed)


def _added(rule: Promised, calibrating: Sequence[Scored], some: Sequence[Scored], seed: int) -> Alarms:
    return rule.calibrated([rollout.scores for rollout in (*calibrating, *some)], ALPHA, seed)


def _group(rule: Promised, calibrating: Sequence[Scored], some: Sequence[Scored], seed: int) -> Alarms | None:
    promise = rule.promise([rollout.scores for rollout in calibrating], ALPHA, seed)
    return _carried(rule, promise, some)


def _weighted(rule: Promised, calibrating: Sequence[Scored], some: Sequence[Scored], seed: int) -> Alarms | None:
    half = len(calibrating) // 2
    promise = rule.promise([rollout.scores for rollout in calibrating[:half]], ALPHA, seed)
    rest = calibrating[half:]
    embeddings = np.array([rollout.embedding for rollout in (*rest, *some)], np.float64)
    embeddings -= embeddings.mean(axis=0)
    axes = np.linalg.svd(embeddings, full_matrices=False)[2][:COMPONENTS]
    places = embeddings @ axes.T
    weights = covariate_weights(places[: len(rest)], places[len(rest) :])
    return _carried(rule, promise, rest, weights)


def _carried(rule: Promised, promise: Promise, by: Sequence[Scored], weights: Any = None) -> Alarms | None:
    """The promise that these rollouts carry, on the scales of the whole; None where they are too few for it."""
    worst = np.array([course.max() for course in rule.courses(promise, [rollout.scores for rollout in by])])
    try:
        carried = Promise(
            promise.reference, worst, promise.alphas, promise.rule, weights=weights, combination=promise.combination,
            sessions=promise.sessions,
        )  # fmt: skip
    except CalibrationError:
        return None
    return rule.of(carried)


WAYS: Mapping[str, Way] = {"as it was": _none, "added": _added, "weighted": _weighted, "a group of its own": _group}


def _share(alarms: Alarms, part: Sequence[Scored]) -> float:
    return (
        float(np.mean([at is not None for at in alarms([rollout.scores for rollout in part])]))
        if part
        else float("nan")
    )


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    title = f"Alarms at alpha {ALPHA:.0%}, mean over tasks and seeds, when n shifted successes are known"
    table = Table("way", "n", *PARTS, "refused", title=title)
    for way in WAYS:
        for n in ADAPTING:
            of_way = [row for row in rows if row["way"] == way and row["n"] == n]
            refused = np.mean([np.isnan(row["safe"]) for row in of_way])
            shares = [
                float(np.nanmean([row[part] for row in of_way])) if refused < 1 else float("nan") for part in PARTS
            ]
            table.add_row(way, f"{n}", *(f"{share:.1%}" for share in shares), f"{refused:.0%}")
    console.print(table)
