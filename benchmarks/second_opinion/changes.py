"""How soon evidence tells that opinions have changed, and how often it cries wolf while they have not.

Each run draws its own calibration set and its own stream from pools of opinions that a real judge gave of real answers.
A stream with a change holds each opinion once at most, so that it ends when there are no more. Calm streams are drawn
with replacement from one pool, as are their calibration sets: both are exchangeable, whatever the pool is, and false
alerts obey the exact law. What is drawn goes through the promise and the evidence that the relay keeps for an opinion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.judge import FAILURE, Judge
from benchmarks.report import Check, console
from benchmarks.second_opinion.pools import RIGHT, TOKEN, USUAL, WORSE, WORSE_BEHIND_TOKEN, WRONG, Pools, read_pools
from benchmarks.second_opinion.watched_streams import ALPHA, DELTA, LONG, OTHER_HALF, TESTS, Change, calm, delays
from tocsin_detectors import External, Observations, compile
from tocsin_detectors.separation import auroc

SHARE = 0.05  # of the calls that is drawn, for delays in responses
WITHIN = 0.9  # of the runs that find a sudden change
SUDDEN = "a worse model"
CHANGES = (
    Change(SUDDEN, WORSE),
    Change("a worse model, for ever more calls", WORSE, slowly=True),
    Change("wrong answers after right ones", WRONG, RIGHT),
    Change("ever more wrong answers", WRONG, RIGHT, slowly=True),
    Change("one token for an answer", TOKEN),
    Change("a worse model, behind the token", WORSE_BEHIND_TOKEN),
    Change("other answers, no change", OTHER_HALF),
)


def changes(folder: Path, count: int, runs: int) -> tuple[dict[str, Any], list[Check]]:
    """Delays until changes are found, and false alerts of calm streams. `folder` keeps answers and opinions."""
    pools = read_pools(folder, count)
    results: dict[str, Any] = {"token": pools.token, "runs": runs, "pools": _print_pools(pools), "opinions": {}}
    checks, judge = [], Judge()
    title = f"{runs} streams of each, drawn from the pools, delta = {DELTA:g}; responses where {SHARE:.0%} are judged"
    table = Table(
        "opinion", "change", "evidence", "found", "opinions until found", "90% of runs", "responses", title=title
    )
    for opinion, by_kind in pools.scores.items():
        scorer = compile([External(opinion)], fit_on=Observations({opinion: by_kind[USUAL][:, None]}))
        facts: dict[str, Any] = {}
        for change in CHANGES:
            facts[change.name] = _summed_up([delays(scorer, by_kind, change, run) for run in range(runs)])
            for test, of_test in facts[change.name].items():
                table.add_row(opinion, change.name, test, *_shown(of_test))
                if change.kind == OTHER_HALF:
                    alerts = round((of_test["found"] or 0) * runs)
                    judge.binomial(f"{opinion}: {change.name}, {test} alerts", DELTA, alerts, runs, exact=False)
        quiet_time = calm(scorer, by_kind[USUAL], runs)
        facts["calm"] = {"alerts": quiet_time.alerts, "alarms": quiet_time.alarms, "opinions": runs * LONG}
        results["opinions"][opinion] = facts
        judge.counts(f"{opinion}: false alarms", ALPHA, quiet_time.laws, quiet_time.alarms, exact=False)
        for test, alerts in quiet_time.alerts.items():
            judge.binomial(f"{opinion}: false {test} alerts", DELTA, alerts, runs, exact=False)
        best = max(facts[SUDDEN][test]["found"] for test in TESTS)
        checks.append(Check(f"{opinion}: {SUDDEN} is found, share of runs", best, f">= {WITHIN:g}", best >= WITHIN))
    console.print(table)
    return results, [*checks, *_calm_checks(judge)]


def _calm_checks(judge: Judge) -> list[Check]:
    """Whether false alarms and false alerts are as few as their laws say, all at one failure probability."""
    table = Table("without a change", "rate", "at most", "of", "as many by chance", title="Calm streams")
    for name, chance in judge.surprises().items():
        of = judge.findings[name]
        table.add_row(name, f"{of.realised:.4f}", f"{of.nominal:g}", f"{of.trials:,}", f"{chance:.2g}")
    console.print(table)
    target = f"by its law at {FAILURE:g}"
    return [Check(name, finding.realised, target, judge.holds(name)) for name, finding in judge.findings.items()]


def _summed_up(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """By evidence, the share of runs that found the change, and of their delays in opinions the median and the middle
    90%, None where the opinions did not suffice.
    """
    result: dict[str, dict[str, float | None]] = {}
    for test in TESTS:
        of_test = np.array([run[test] for run in runs if test in run])
        result[test] = {"found": float(np.isfinite(of_test).mean())}
        for name, level in (("median", 0.5), ("low", 0.05), ("high", 0.95)):
            delay = float(np.quantile(of_test, level, method="inverted_cdf"))
            result[test][name] = delay if np.isfinite(delay) else None
    return result


def _shown(facts: Mapping[str, float | None]) -> tuple[str, str, str, str]:
    """The share found, the median, the range, and the median in responses, as text."""
    median = facts["median"]
    shown = {name: "-" if (delay := facts[name]) is None else f"{delay:g}" for name in ("median", "low", "high")}
    responses = "-" if median is None else f"{median / SHARE:,.0f}"
    of_most = "-" if facts["low"] is None else f"{shown['low']} to {shown['high']}"
    return f"{facts['found']:.0%}", shown["median"], of_most, responses


def _print_pools(pools: Pools) -> dict[str, Any]:
    """How many opinions there are, and how far those of changed answers lie from the usual ones: printed, and by
    opinion and kind of answer.
    """
    table = Table(
        "opinion", "answers", "pool", "mean score", "AUROC against usual", title="Real opinions, higher is worse"
    )
    facts: dict[str, Any] = {}
    for opinion, by_kind in pools.scores.items():
        facts[opinion] = {}
        for kind, pool in by_kind.items():
            apart = auroc(by_kind[USUAL], pool)
            facts[opinion][kind] = {"opinions": len(pool), "mean": float(pool.mean()), "auroc": apart}
            shown = "" if kind == USUAL else f"{apart:.3f}"
            table.add_row(opinion, kind, f"{len(pool)}", f"{pool.mean():.3f}", shown)
    console.print(table)
    return facts
