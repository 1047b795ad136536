"""How well a score tells wrong answers, over all questions, within tasks, and beside another score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from tocsin_detectors.separation import auroc

Float64 = NDArray[np.float64]
DRAWS = 300  # bootstrap samples of the answers
LEAST = 10  # right and wrong answers that a task must have to be looked at by itself


def separation_by_task(scores: Float64, wrong: NDArray[np.bool_], tasks: NDArray[np.str_]) -> dict[str, Any]:
    """The AUROC of scores (n,), its bootstrap interval of 95%, and its mean within tasks."""
    spread = [auroc(scores[rows][~wrong[rows]], scores[rows][wrong[rows]]) for rows in _resampled(len(scores))]
    within = []
    for task in np.unique(tasks):
        of_task = tasks == task
        if min(wrong[of_task].sum(), (~wrong[of_task]).sum()) >= LEAST:
            within.append(auroc(scores[of_task & ~wrong], scores[of_task & wrong]))
    return {
        "auroc": auroc(scores[~wrong], scores[wrong]), "interval": _range(spread),
        "within": float(np.mean(within)) if within else None,
    }  # fmt: skip


def gain(scores: Float64, baseline: Float64, wrong: NDArray[np.bool_]) -> tuple[float, list[float]]:
    """By how much the AUROC of scores exceeds that of a baseline for the same answers, and the interval of 95% from
    resampling the answers of both together.
    """

    def difference(rows: NDArray[np.intp]) -> float:
        right, bad = rows[~wrong[rows]], rows[wrong[rows]]
        return auroc(scores[right], scores[bad]) - auroc(baseline[right], baseline[bad])

    return difference(np.arange(len(scores))), _range([difference(rows) for rows in _resampled(len(scores))])


def add_row(table: Table, name: str, figures: dict[str, Any]) -> None:
    """A row with the score's name, its AUROC, the interval, and the mean within tasks."""
    low, high = figures["interval"]
    within = "-" if figures["within"] is None else f"{figures['within']:.3f}"
    table.add_row(name, f"{figures['auroc']:.3f}", f"{low:.3f} to {high:.3f}", within)


def _resampled(count: int) -> list[NDArray[np.intp]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, count, count) for _ in range(DRAWS)]


def _range(values: list[float]) -> list[float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]
