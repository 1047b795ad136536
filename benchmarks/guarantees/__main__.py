"""python -m benchmarks.guarantees --json FILE"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.guarantees import causes, conditional, cost, few, inputs, online, peers, risk, ties
from benchmarks.guarantees.pairs import Pair, courses, pairs
from benchmarks.guarantees.promises import responses, sessions
from benchmarks.judge import FAILURE, Judge
from benchmarks.report import Check, arguments, console, finish

Outcome = tuple[dict[str, Any], list[Check]]  # figures, and what was checked of them


def main() -> None:
    """Run everything, or the part that an option names, and say which promises were kept."""
    options = _options()
    if options.quick:
        results, checks = _quick()
    else:
        results, checks = _part(options) or _everything(options)
    finish(results, checks, options.json)


def _options() -> Namespace:
    """What the command line says."""
    return arguments(
        "Promises against what is realised, on real data.",
        splits={"type": int, "default": 10, "help": "random splits of each pair"},
        runs={"type": int, "default": 500, "help": "runs of long calm"},
        causes={"action": "store_true", "help": "which, since when and slow change alone"},
        inputs={"action": "store_true", "help": "changes of inputs alone"},
        few={"action": "store_true", "help": "few calibration sessions alone"},
        conditional={"action": "store_true", "help": "conditional conformal prediction beside groups alone"},
        cost={"action": "store_true", "help": "what evidence costs alone"},
        kept={
            "type": Path,
            "default": Path(".demo/robot/1"),
            "help": "rollouts of robots, where `make fiper` keeps them",
        },
        quick={"action": "store_true", "help": "evidence alone, few and short runs: for a look, not for figures"},
    )


def _part(options: Namespace) -> Outcome | None:
    """The one part that an option names, None where none does."""
    if options.causes:
        return causes.everything(pairs(), _runs_of_changes(options))
    if options.inputs:
        return inputs.everything(max(1, options.splits // 2))
    if options.few:
        return few.everything(4 * options.splits, options.kept)
    if options.conditional:
        return conditional.everything(pairs(), options.splits)
    return cost.everything() if options.cost else None


def _runs_of_changes(options: Namespace) -> int:
    """How often a change is made on each pair."""
    splits: int = options.splits
    return max(1, splits * 2 // 5)


def _everything(options: Namespace) -> Outcome:
    """All promises, on all pairs of data set and model."""
    results: dict[str, Any] = {}
    checks: list[Check] = []
    results["costs"], more = peers.costs()  # first, while this process is fresh
    checks += more
    results["cost of evidence"], more = cost.everything()
    checks += more
    judge, planted = Judge(), Judge()
    every = list(pairs())
    _judge_splits(judge, planted, every, options.splits, results)
    results["label sets"], more = risk.label_sets(judge, options.splits)
    checks += more
    judge.judge_pools()
    planted.judge_pools()
    checks.append(Check("pairs of data set and model", len(every), ">= 20", len(every) >= 20))
    results["promises"], more = _promises_held(judge)
    checks += more
    results["false alarms in long calm"], more, frozen = online.false_alarms(options.runs, 20_000)
    checks += more
    results["evidence on scores that tie"], more, surprises = ties.calm(options.runs, 20_000)
    checks += more
    results["evidence of groups"], more, fallback = ties.groups(options.runs // 5, 20_000)
    checks += more
    results["causes and slow change"], more = causes.everything(every, _runs_of_changes(options))
    checks += more
    results["few sessions"], more = few.everything(4 * options.splits, options.kept)
    checks += more
    results["parts of the traffic"], more = conditional.everything(every, options.splits)
    checks += more
    results["inputs"], more = inputs.everything(max(1, options.splits // 2))
    checks += more
    results["planted mistakes"], more = _mistakes_detected(planted, frozen | surprises | fallback)
    checks += more
    for name, measure in (("delays", lambda: online.delays(201)), ("equality", peers.equality)):
        results[name], more = measure()
        checks += more
    large = {pair.name: pair for pair in every}
    results["risk"] = []
    for name in ("MNIST / LogisticRegression", "Bananas / MLPClassifier"):
        guaranteed, more = risk.selective(large[name])
        results["risk"].append(guaranteed)
        checks += more
    results["weak sources"], more = risk.harmonised()
    checks += more
    return results, checks


def _judge_splits(judge: Judge, planted: Judge, every: Sequence[Pair], splits: int, results: dict[str, Any]) -> None:
    """Calibrate and judge each pair and each series, on so many random splits."""
    for pair in every:
        for split in range(splits):
            # The models of one data set share its rows: one of them stands for it in what is pooled.
            responses(judge, planted, pair, split, split if pair.name.endswith("LogisticRegression") else None)
    series = list(courses())
    for course in series:
        for split in range(splits):
            sessions(judge, course, split)
    results["pairs"] = [pair.name for pair in every]
    results["series"] = [course.name for course in series]


def _quick() -> Outcome:
    """Evidence alone, on few and short runs."""
    calm, checks, surprises = ties.calm(40, 3_000)
    by_group, some, fallback = ties.groups(10, 4_000)
    which, further = causes.everything(islice(pairs(), 6), 1)
    detected, more = _mistakes_detected(Judge(), surprises | fallback)
    results = {"evidence on scores that tie": calm, "evidence of groups": by_group, "planted mistakes": detected}
    return results | {"causes and slow change": which}, checks + some + further + more


def _promises_held(judge: Judge) -> tuple[dict[str, Any], list[Check]]:
    table = Table(
        "promise", "nominal", "realised", "trials", "splits judged", "least tail", "kept", title="Nominal and realised"
    )
    results, checks = {}, []
    every = sum(len(finding.tails) for finding in judge.findings.values())
    for name, finding in judge.findings.items():
        holds = judge.holds(name)
        figures = (
            f"{finding.nominal:.2%}",
            f"{finding.realised:.3%}",
            f"{finding.trials:,}",
            f"{len(finding.tails):,}",
        )
        table.add_row(name, *figures, f"{min(finding.tails):.2g}", "yes" if holds else "[red]NO[/]")
        results[name] = {"nominal": finding.nominal, "realised": finding.realised, "trials": finding.trials,
                         "tails": len(finding.tails), "least tail": min(finding.tails)}  # fmt: skip
        checks.append(Check(f"{name}: least tail of its law", min(finding.tails), f"> {FAILURE / every:.2g}", holds))
    console.print(table)
    return results, checks


def _mistakes_detected(planted: Judge, frozen: dict[str, float]) -> tuple[dict[str, float], list[Check]]:
    chances = planted.surprises() | frozen
    table = Table("planted mistake", "chance of what was seen, were it right", title="The same judge on known mistakes")
    for name, chance in chances.items():
        table.add_row(name, f"{chance:.2g}")
    console.print(table)
    return chances, [
        Check(f"found out: {name}", chance, f"< {FAILURE:g}", chance < FAILURE) for name, chance in chances.items()
    ]


if __name__ == "__main__":
    main()
