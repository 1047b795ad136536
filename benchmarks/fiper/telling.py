"""How well failures are told, and how soon, by task and on average, on rollouts that nothing was chosen on.

Choices (windows, styles, which detectors are joined and how) are made on rollouts of other policies than those judged:
trained anew on other demonstrations. Either on those of all tasks, or on one task's alone, which is then left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import t as student

from benchmarks.fiper import choosing
from benchmarks.fiper.choosing import ALPHA, CALIBRATING, OURS, PUBLISHED, QUANTILES, chosen, families
from benchmarks.fiper.rules import Rule
from benchmarks.fiper.scores import NAMES, Scored
from benchmarks.fiper.splits import Outcome, over_seeds
from benchmarks.report import Check, console

BySeed = Sequence[Sequence[Scored]]
ONE_TASK = "push-v3"
HINDSIGHT = "published FIPER, chosen on test"
FIGURES = ("tpr", "tnr", "balanced_accuracy", "detection_time", "twa")
ALARMS = ("safe_alarms", "benign_alarms")


def tell(
    tasks: Mapping[str, BySeed], elsewhere: Mapping[str, choosing.Table], here: Mapping[str, choosing.Table]
) -> tuple[dict[str, Any], list[Check], dict[str, Rule]]:
    """Figures, checks, and the rules chosen on all tasks.

    `elsewhere`: how rules did on the rollouts that choices are made on; `here`: on those that are judged, for what
    hindsight would have chosen.
    """
    results: dict[str, Any] = {}
    checks: list[Check] = []
    hindsight = {task: _published_in_hindsight(by_seed) for task, by_seed in tasks.items()}
    for chosen_on, choosing_tasks in {"all tasks": list(tasks), f"{ONE_TASK} alone": [ONE_TASK]}.items():
        rules = chosen([elsewhere[task] for task in choosing_tasks])
        judged = [task for task in tasks if choosing_tasks != [task]]
        results_of = {
            name: {task: over_seeds(rule, tasks[task], ALPHA, CALIBRATING) for task in judged}
            for name, (rule, _) in rules.items()
        }
        results_of[HINDSIGHT] = {task: hindsight[task] for task in judged}
        _show_chosen(chosen_on, rules)
        if len(judged) == len(tasks):
            for task in judged:
                _show(task, {name: [_figures(outcome) for outcome in by[task]] for name, by in results_of.items()})
        means = {name: _over_tasks(by) for name, by in results_of.items()}
        _show(f"Mean over {len(judged)} tasks; chosen on {chosen_on}, other policies; alpha {ALPHA:g}", means)
        twa = {name: np.array([row["twa"] for row in rows]) for name, rows in means.items()}
        single = max(NAMES, key=lambda name: twa[name].mean())
        checks += [
            _ahead(f"chosen on {chosen_on}: TWA, Tocsin - published", twa[OURS] - twa[PUBLISHED], 0.0),
            _ahead(f"chosen on {chosen_on}: TWA, Tocsin - {single}, the best single", twa[OURS] - twa[single], 0.05),
        ]
        results[chosen_on] = {
            "chosen": {name: str(rule) for name, (rule, _) in rules.items()},
            "by task": {
                n: {t: [_figures(outcome) for outcome in seeds] for t, seeds in by.items()}
                for n, by in results_of.items()
            },
            "means": means,
        }
    results["hindsight"] = _hindsight(here)
    return results, checks, {name: rule for name, (rule, _) in chosen(list(elsewhere.values())).items()}


def _published_in_hindsight(by_seed: BySeed) -> list[Outcome]:
    """As published: window, style and quantile are those that do best on the rollouts that are judged."""
    runs = [over_seeds(rule, by_seed, alpha, CALIBRATING) for rule in families()[PUBLISHED] for alpha in QUANTILES]
    return max(runs, key=lambda run: np.mean([outcome.metrics.twa for outcome in run]))


def _hindsight(here: Mapping[str, choosing.Table]) -> dict[str, float]:
    """The best that any rule of a family could have done, had it been chosen on the very rollouts, for each task."""
    best = {name: float(np.mean([table[name].mean(axis=1).max() for table in here.values()])) for name in families()}
    table = Table("family", "rules", "mean TWA", title="In hindsight: each task's best rule, chosen on what it judges")
    for name, twa in sorted(best.items(), key=lambda pair: -pair[1]):
        table.add_row(name, f"{len(families()[name])}", f"{twa:.3f}")
    console.print(table)
    return best


def _figures(outcome: Outcome) -> dict[str, float]:
    alarms = (outcome.safe[0] / outcome.safe[1], outcome.benign[0] / max(outcome.benign[1], 1))
    return outcome.metrics._asdict() | dict(zip(ALARMS, alarms, strict=True))


def _over_tasks(by_task: Mapping[str, Sequence[Outcome]]) -> list[dict[str, float]]:
    """For each seed, the mean over tasks."""
    by_seed = zip(*by_task.values(), strict=True)
    rows = [[_figures(outcome) for outcome in some] for some in by_seed]
    return [{name: float(np.nanmean([row[name] for row in some])) for name in some[0]} for some in rows]


def interval(values: NDArray[np.float64]) -> float:
    """Half of the width of the 95% interval of a mean over seeds."""
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def _show(title: str, figures: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    table = Table(
        "rule", "TPR", "TNR", "bal. acc.", "detection", "TWA", "alarms, safe", "shifted, successful", title=title
    )
    for name, rows in sorted(figures.items(), key=lambda pair: -np.mean([row["twa"] for row in pair[1]])):
        cells = [f"{np.nanmean([row[figure] for row in rows]):.2f}" for figure in FIGURES[:-1]]
        twa = np.array([row["twa"] for row in rows])
        alarms = [f"{np.mean([row[kind] for row in rows]):.1%}" for kind in ALARMS]
        table.add_row(name, *cells, f"{twa.mean():.3f} ± {interval(twa):.3f}", *alarms)
    console.print(table)


def _show_chosen(chosen_on: str, rules: Mapping[str, tuple[Rule, float]]) -> None:
    table = Table("family", "of", "taken", "TWA there", title=f"Chosen on {chosen_on}, other policies")
    for name, (rule, twa) in rules.items():
        table.add_row(name, f"{len(families()[name])}", str(rule), f"{twa:.3f}")
    console.print(table)


def _ahead(name: str, differences: NDArray[np.float64], wanted: float) -> Check:
    mean = float(differences.mean())
    return Check(name, round(mean, 4), f">= {wanted:g} (± {interval(differences):.3f})", mean >= wanted)
