"""How well failures are told, and how soon, by task and on average, on rollouts that nothing was chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import t as student

from benchmarks.fiper.choosing import ALPHA, CALIBRATING, DEVELOPMENT, QUANTILES, chosen, mean_twa, published
from benchmarks.fiper.rules import Rule
from benchmarks.fiper.scores import NAMES, Scored
from benchmarks.fiper.splits import Told, over_seeds
from benchmarks.report import Check, console

BySeed = Sequence[Sequence[Scored]]
OPTIMISTIC = "published FIPER, chosen on test"
FIGURES = ("tpr", "tnr", "balanced_accuracy", "detection_time", "twa")


def tell(tasks: Mapping[str, BySeed]) -> tuple[dict[str, Any], list[Check], dict[str, Rule]]:
    """Choose on the development task, judge on the others."""
    rules, tried = chosen(tasks[DEVELOPMENT])
    others = {task: by_seed for task, by_seed in tasks.items() if task != DEVELOPMENT}
    found = {
        name: {task: over_seeds(rule, by_seed, ALPHA, CALIBRATING) for task, by_seed in tasks.items()}
        for name, rule in rules.items()
    }
    found[OPTIMISTIC] = {task: _optimistic(by_seed) for task, by_seed in tasks.items()}
    for task in tasks:
        _show(task, {name: own[task] for name, own in found.items()}, rules)
    means = {name: [_mean([own[task][at] for task in others]) for at in _seeds(own)] for name, own in found.items()}
    _show_means(means)
    twa = {name: np.array([row["twa"] for row in rows]) for name, rows in means.items()}
    single = max((name for name in NAMES), key=lambda name: twa[name].mean())
    results = {
        "development": DEVELOPMENT,
        "chosen": {name: str(rule) for name, rule in rules.items()},
        "tried": tried,
        "by task": {
            name: {t: [_figures(one) for one in seeds] for t, seeds in own.items()} for name, own in found.items()
        },
        "means": means,
        "best single": single,
    }
    checks = [
        _ahead("mean TWA, Tocsin - published FIPER", twa["Tocsin"] - twa["published FIPER"], 0.0),
        _ahead("mean TWA, Tocsin - published FIPER chosen on test", twa["Tocsin"] - twa[OPTIMISTIC], 0.0),
        _ahead(f"mean TWA, Tocsin - {single}, the best single", twa["Tocsin"] - twa[single], 0.05),
    ]
    return results, checks, rules


def _optimistic(by_seed: BySeed) -> list[Told]:
    """As published: window, style and quantile are those that do best on the rollouts that are judged."""
    pairs = [(rule, alpha) for rule in published() for alpha in QUANTILES]
    rule, alpha = max(pairs, key=lambda pair: mean_twa(pair[0], by_seed, pair[1]))
    return over_seeds(rule, by_seed, alpha, CALIBRATING)


def _seeds(own: Mapping[str, list[Told]]) -> range:
    return range(len(next(iter(own.values()))))


def _figures(one: Told) -> dict[str, float]:
    alarms = {"safe_alarms": one.safe[0] / one.safe[1], "benign_alarms": one.benign[0] / max(one.benign[1], 1)}
    return one.metrics._asdict() | alarms


def _mean(some: Sequence[Told]) -> dict[str, float]:
    rows = [_figures(one) for one in some]
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


def interval(values: NDArray[np.float64] | Sequence[float]) -> float:
    """Half of the width of the 95% interval of a mean over seeds."""
    values = np.asarray(values)
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def _row(rows: Sequence[Mapping[str, float]]) -> list[str]:
    cells = []
    for name in (*FIGURES, "safe_alarms", "benign_alarms"):
        values = [row[name] for row in rows]
        share = name.endswith("alarms")
        told = f"{np.nanmean(values):.1%}" if share else f"{np.nanmean(values):.2f}"
        cells.append(f"{np.nanmean(values):.3f} ± {interval(values):.3f}" if name == "twa" else told)
    return cells


def _table(title: str) -> Table:
    return Table(
        "rule", "TPR", "TNR", "bal. acc.", "detection", "TWA", "alarms, safe", "alarms, shifted and successful",
        title=title,
    )  # fmt: skip


def _show(task: str, found: Mapping[str, list[Told]], rules: Mapping[str, Rule]) -> None:
    failed = next(iter(found.values()))[0]
    table = _table(f"{task}{', development' if task == DEVELOPMENT else ''} ({failed.benign[1]} shifted successes)")
    for name, seeds in found.items():
        table.add_row(name, *_row([_figures(one) for one in seeds]))
    console.print(table)


def _show_means(means: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    table = _table(f"Mean over the tasks but {DEVELOPMENT}, alpha {ALPHA:g}, {CALIBRATING} safe rollouts calibrate")
    for name, rows in sorted(means.items(), key=lambda pair: -np.mean([row["twa"] for row in pair[1]])):
        table.add_row(name, *_row(rows))
    console.print(table)


def _ahead(name: str, differences: NDArray[np.float64], wanted: float) -> Check:
    told = f">= {wanted:g} (± {interval(differences):.3f})"
    return Check(name, round(float(differences.mean()), 4), told, bool(differences.mean() >= wanted))
