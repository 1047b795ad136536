"""Which rules are compared, and how each does on the rollouts that choices are made on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.fiper.rules import Promised, Published, Rule
from benchmarks.fiper.scores import NAMES, scored
from benchmarks.fiper.splits import over_seeds
from tocsin_calibration.sessions.rule import Style

ALPHA, CALIBRATING, SEEDS = 0.05, 100, 5
WINDOWS = (1, 3, 6, 20)
STYLES: tuple[Style, ...] = ("max", "band")
PUBLISHED_WINDOWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
QUANTILES = (0.10, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01)  # FIPER looked at 0.90 to 0.99
PUBLISHED, OURS = "published FIPER", "Tocsin"
PAIR = ("RND", "ACE, published cells")
ACE = "ACE, joint cells"
TOGETHER = (
    PAIR, ("RND", ACE), ("Mahalanobis", ACE), ("PCA and k-means", ACE), ("logpZO", ACE),
    ("RND", "PCA and k-means", ACE), ("RND", "logpZO", ACE), ("RND", "STAC", ACE), ("RND", "transition", ACE),
    ("RND", "logpZO", "Mahalanobis", "PCA and k-means"), ("RND", "logpZO", "Mahalanobis", "PCA and k-means", ACE),
    tuple(name for name in NAMES if name != "clock"),
)  # fmt: skip

Table = Mapping[str, NDArray[np.float64]]  # by family of rules, timestep-wise accuracy (rules, seeds)


def families() -> dict[str, list[Rule]]:
    """What is chosen among, by the name it goes by in tables."""
    rules_of: dict[str, list[Rule]] = {
        PUBLISHED: [
            rule
            for window in PUBLISHED_WINDOWS
            for rule in (Published(PAIR, window, "constant"), Published(PAIR, window, "step"))
        ]
    }
    for name in NAMES:
        rules_of[name] = [Promised((name,), "any", window, style) for window, style in product(WINDOWS, STYLES)]
    rules_of[OURS] = list(_joint())
    return rules_of


def _joint() -> Iterator[Rule]:
    for detectors, window, style in product(TOGETHER, WINDOWS, STYLES):
        several = [f"2 of {len(detectors)}"] if len(detectors) > 2 else []
        yield from (Promised(detectors, rule, window, style) for rule in ("any", "all", "learnt", *several))


def measured(paths: Sequence[Path]) -> dict[str, Table]:
    """By task, how all rules of all families do on its rollouts."""
    with ProcessPoolExecutor() as pool:
        return {path.stem: table for path, table in zip(paths, pool.map(_measured, paths), strict=True)}


def _measured(path: Path) -> Table:
    by_seed = scored(path, SEEDS)
    return {
        name: np.array(
            [[outcome.metrics.twa for outcome in over_seeds(rule, by_seed, ALPHA, CALIBRATING)] for rule in rules]
        )
        for name, rules in families().items()
    }


def chosen(tables: Sequence[Table]) -> dict[str, tuple[Rule, float]]:
    """Of each family the rule with the best mean over these tasks, and that mean."""
    best_of = {}
    for name, rules in families().items():
        means = np.mean([table[name].mean(axis=1) for table in tables], axis=0)
        best = int(np.argmax(means))
        best_of[name] = rules[best], float(means[best])
    return best_of
