"""python -m benchmarks.guarantees --json FILE"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.guarantees import causes, conditional, cost, few, inputs, online, peers, risk, ties
from benchmarks.guarantees.pairs import courses, pairs
from benchmarks.guarantees.promises import responses, sessions
from benchmarks.judge import FAILURE, Judge
from benchmarks.report import Check, arguments, console, finish


def main() -> None:
    """Run everything and say which promises were kept."""
    options = arguments(
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
    if options.quick:
        return _quick(options.json)
    runs_of_changes = max(1, options.splits * 2 // 5)
    if options.causes:
        return finish(*causes.everything(pairs(), runs_of_changes), options.json)
    if options.inputs:
        return finish(*inputs.everything(max(1, options.splits // 2)), options.json)
    if options.few:
        return finish(*few.everything(4 * options.splits, options.kept), options.json)
    if options.conditional:
        return finish(*conditional.everything(pairs(), options.splits), options.json)
    if options.cost:
        return finish(*cost.everything(), options.json)
    results: dict[str, Any] = {}
    checks: list[Check] = []
    results["costs"], more = peers.costs()  # first, while this process is fresh
    checks += more
    results["cost of evidence"], more = cost.everything()
    checks += more
    judge, planted = Judge(), Judge()
    every = list(pairs())
    for pair in every:
        for split in range(options.splits):
            # The models of one data set share its rows: one of them stands for it in what is pooled.
            responses(judge, planted, pair, split, split if pair.name.endswith("LogisticRegression") else None)
    series = list(courses())
    for course in series:
        for split in range(options.splits):
            sessions(judge, course, split)
    results["label sets"], more = risk.label_sets(judge, options.splits)
    checks += more
    judge.judge_pools()
    planted.judge_pools()
    results["pairs"] = [pair.name for pair in every]
    results["series"] = [course.name for course in series]
    checks.append(Check("pairs of data set and model", len(every), ">= 20", len(every) >= 20))
    results["promises"], more = _promises_held(judge)
    checks += more
    results["false alarms in long calm"], more, frozen = online.false_alarms(options.runs, 20_000)
    checks += more
    results["evidence on scores that tie"], more, surprises = ties.calm(options.runs, 20_000)
    checks += more
    results["evidence of groups"], more, fallback = ties.groups(options.runs // 5, 20_000)
    checks += more
    results["causes and slow change"], more = causes.everything(every, runs_of_changes)
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
    finish(results, checks, options.json)


def _quick(target: Path | None) -> None:
    results, checks, surprises = ties.calm(40, 3_000)
    by_group, some, fallback = ties.groups(10, 4_000)
    which, further = causes.everything(islice(pairs(), 6), 1)
    detected, more = _mistakes_detected(Judge(), surprises | fallback)
    results = {"evidence on scores that tie": results, "evidence of groups": by_group, "planted mistakes": detected}
    finish(results | {"causes and slow change": which}, checks + some + further + more, target)


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
