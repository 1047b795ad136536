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
    fit, known, fresh = (observed([answers[at] for at in part]) for part in np.array_split(order, 3))
    scorer = compile([parse(spec) for spec in DETECTORS], fit_on=fit)
    promise = calibrate(scorer(known), {"warning": ALPHA}, detectors=scorer.detectors, on_average=True)
    title = f"Alarms at alpha {ALPHA:g}, calibrated on {known.rows} safe answers"
    table = Table("prompts", "answers", "alarms", "rate", title=title)
    results: dict[str, Any] = {}
    for name, seen in {
        "safe, not seen before": fresh,
        **{kind: observed(own) for kind, own in shifted.items()},
    }.items():
        alarms = sum(one is not None for one in promise.judge(scorer(seen)).severities)
        results[name] = {"answers": seen.rows, "alarms": alarms}
        table.add_row(name, f"{seen.rows}", f"{alarms}", f"{alarms / seen.rows:.1%}")
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
