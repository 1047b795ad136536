"""Which windows, detectors and joint rules are compared; all that is chosen is chosen on the development task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.fiper.rules import Promised, Published, Rule
from benchmarks.fiper.scores import NAMES, Scored
from benchmarks.fiper.splits import over_seeds
from benchmarks.report import console

DEVELOPMENT = "push-v3"  # left out of every mean
ALPHA, CALIBRATING = 0.05, 100
WINDOWS = (1, 3, 6, 10, 20)
PUBLISHED_WINDOWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
QUANTILES = (0.10, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01)  # FIPER looked at 0.90 to 0.99
PAIR = ("RND", "ACE, published cells")
ACE = "ACE, joint cells"
TOGETHER = (
    ("RND", ACE), ("Mahalanobis", ACE), ("PCA and k-means", ACE), ("logpZO", ACE), ("RND", "ACE, sum of dimensions"),
    ("RND", "PCA and k-means", ACE), ("RND", "logpZO", ACE), ("RND", "STAC", ACE), ("RND", "transition", ACE),
    ("RND", "clock"), ("RND", "logpZO", "Mahalanobis", "PCA and k-means"), tuple(n for n in NAMES if n != "clock"),
)  # fmt: skip


def joint() -> Iterator[Promised]:
    """What Tocsin's rule may be."""
    for detectors, window in product(TOGETHER, WINDOWS):
        yield from (Promised(detectors, rule, window) for rule in ("any", "all", "learnt"))
        yield Promised(detectors, "any", window, "band")
        if len(detectors) > 2:
            yield Promised(detectors, f"2 of {len(detectors)}", window)


def singles(name: str) -> list[Promised]:
    """One detector alone."""
    return [Promised((name,), "any", window) for window in WINDOWS]


def published() -> list[Published]:
    """FIPER's rule with every window, by either style of its thresholds."""
    return [Published(PAIR, window, style) for window in PUBLISHED_WINDOWS for style in ("constant", "step")]


def mean_twa(rule: Rule, by_seed: Sequence[Sequence[Scored]], alpha: float = ALPHA) -> float:
    """Timestep-wise accuracy, over the seeds."""
    return float(np.mean([one.metrics.twa for one in over_seeds(rule, by_seed, alpha, CALIBRATING)]))


def chosen(by_seed: Sequence[Sequence[Scored]]) -> tuple[dict[str, Rule], list[dict[str, Any]]]:
    """The rules to compare, their windows chosen on the development task, and what was tried there."""
    rules: dict[str, Rule] = {}
    tried: list[dict[str, Any]] = []

    def best(name: str, candidates: Sequence[Rule]) -> None:
        scores = [mean_twa(one, by_seed) for one in candidates]
        tried.extend({"for": name, "rule": str(one), "twa": twa} for one, twa in zip(candidates, scores, strict=True))
        rules[name] = candidates[int(np.argmax(scores))]

    best("published FIPER", published())
    for name in NAMES:
        best(name, singles(name))
    best("Tocsin", list(joint()))
    _show(tried, rules)
    return rules, tried


def _show(tried: Sequence[Mapping[str, Any]], rules: Mapping[str, Rule]) -> None:
    table = Table("of", "tried", "taken", "TWA there", title=f"Chosen on {DEVELOPMENT} alone, alpha {ALPHA:g}")
    for name, rule in rules.items():
        own = [one for one in tried if one["for"] == name]
        table.add_row(name, f"{len(own)}", str(rule), f"{max(one['twa'] for one in own):.3f}")
    console.print(table)
    table = Table("detectors and rule", "best window", "TWA there", title="What was tried for Tocsin's rule")
    kinds: dict[str, Mapping[str, Any]] = {}
    for one in tried:
        kind = one["rule"].rpartition(", ")[0] if not one["rule"].endswith("band") else one["rule"]
        if one["for"] == "Tocsin" and one["twa"] > kinds.get(kind, {"twa": 0.0})["twa"]:
            kinds[kind] = one
    for one in sorted(kinds.values(), key=lambda one: -one["twa"])[:15]:
        table.add_row(*one["rule"].rsplit(", ", 1), f"{one['twa']:.3f}")
    console.print(table)
