"""Alarms on safe rollouts, promised and seen: by the law for the promise, beside what the published rule gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from benchmarks.fiper.choosing import CALIBRATING, PAIR
from benchmarks.fiper.rules import Promised, Published
from benchmarks.fiper.scores import Scored
from benchmarks.fiper.splits import Split, judge_split
from benchmarks.judge import Judge
from benchmarks.report import Check, console
from tocsin_calibration import FalseAlarmLaw

ALPHAS, SIZES = (0.05, 0.10), (50, 100, 200)


def keep(
    tasks: Mapping[str, Sequence[Sequence[Scored]]], ours: Promised, theirs: Published
) -> tuple[list[dict[str, Any]], list[Check]]:
    """Every task, seed and size by the exact law; tasks of one seed, which are independent, together too."""
    judge, published = Judge(), Judge()
    for task, by_seed in tasks.items():
        for seed, rollouts in enumerate(by_seed):
            for alpha in ALPHAS:
                for size in SIZES:
                    split = Split.drawn(rollouts, size, seed)
                    calibrating = [rollout.scores for rollout in split.calibrating]
                    promise = ours.promise(calibrating, alpha, seed)
                    alarms, of = judge_split(ours.of(promise), split).safe
                    law = [(promise.laws["alarm"], of)]
                    judge.counts(f"Tocsin, {size:3} rollouts, {alpha:3.0%}", alpha, law, alarms, pool=seed)
                    if size == CALIBRATING:
                        judge.counts(f"Tocsin, {task}, {alpha:3.0%}", alpha, law, alarms)
                    plain = [(FalseAlarmLaw.at(size, alpha), of)]
                    for name, detectors in {"RND and ACE": PAIR, "RND alone": PAIR[:1]}.items():
                        rule = Published(detectors, theirs.window, theirs.style)
                        alarms, _ = judge_split(rule.calibrated(calibrating, alpha, seed), split).safe
                        published.counts(
                            f"published, {name}, {size:3} rollouts, {alpha:3.0%}", alpha, plain, alarms, pool=seed
                        )
    judge.judge_pools()
    published.judge_pools()
    checks = [Check(f"kept: {name}", round(judge.findings[name].realised, 4), f"{finding.nominal:g}, by the law",
                    judge.holds(name)) for name, finding in sorted(judge.findings.items())]  # fmt: skip
    return _shown(judge) + _shown(published), checks


def _shown(judge: Judge) -> list[dict[str, Any]]:
    table = Table("rule", "nominal", "realised", "of safe rollouts", "least tail, times tails", "by the law")
    rows = []
    for name, surprise in sorted(judge.surprises().items()):
        finding = judge.findings[name]
        word = "kept" if judge.holds(name) else "not kept"
        table.add_row(
            name, f"{finding.nominal:.0%}", f"{finding.realised:.2%}", f"{finding.trials:,}", f"{surprise:.2g}", word
        )
        rows.append({"rule": name, "nominal": finding.nominal, "realised": finding.realised, "of": finding.trials,
                     "surprise": surprise, "kept": judge.holds(name)})  # fmt: skip
    console.print(table)
    return rows
