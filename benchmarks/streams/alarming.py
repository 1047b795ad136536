"""The promise on whole answers: alarms on safe prompts by the law, and on prompts that are unlike them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.report import Check, console
from benchmarks.streams.answers import Answer
from benchmarks.streams.signals import observed
from tocsin_calibration import calibrate
from tocsin_detectors import compile
from tocsin_detectors.registry import parse

ALPHA, FAILURE = 0.05, 1e-4
DETECTORS = ["mean_surprisal", "token_entropy", "windowed_surprisal,window=4"]


def alarm(answers: Sequence[Answer], shifted: Mapping[str, Sequence[Answer]]) -> tuple[dict[str, Any], list[Check]]:
    """A third of the safe prompts fits, a third calibrates, a third and the others are judged."""
    order = np.random.default_rng(8).permutation(len(answers))
    fit, calibration, fresh = (observed([answers[at] for at in part]) for part in np.array_split(order, 3))
    scorer = compile([parse(spec) for spec in DETECTORS], fit_on=fit)
    promise = calibrate(scorer(calibration), {"warning": ALPHA}, detectors=scorer.detectors, on_average=True)
    title = f"Alarms at alpha {ALPHA:g}, calibrated on {calibration.rows} safe answers"
    table = Table("prompts", "answers", "alarms", "rate", title=title)
    results: dict[str, Any] = {}
    for name, traffic in {
        "safe, not seen before": fresh,
        **{kind: observed(prompts) for kind, prompts in shifted.items()},
    }.items():
        alarms = sum(severity is not None for severity in promise.judge(scorer(traffic)).severities)
        results[name] = {"answers": traffic.rows, "alarms": alarms}
        table.add_row(name, f"{traffic.rows}", f"{alarms}", f"{alarms / traffic.rows:.1%}")
    low, high = promise.laws["warning"].count_interval(fresh.rows, 1 - FAILURE)
    table.add_row(
        "the law allows, safe",
        f"{fresh.rows}",
        f"{low} to {high}",
        f"{low / fresh.rows:.1%} to {high / fresh.rows:.1%}",
    )
    console.print(table)
    seen_alarms = results["safe, not seen before"]["alarms"]
    within = low <= seen_alarms <= high
    return results, [Check("alarms on safe prompts, by the law", seen_alarms, f"{low} to {high}", within)]
