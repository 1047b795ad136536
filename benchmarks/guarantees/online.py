"""Tests that run for ever: how often they cry wolf in long calm, and how soon they find what has changed."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import binom

from benchmarks.judge import FAILURE
from benchmarks.report import Check, at_most, console
from tocsin_calibration import DriftWatch, FalseAlarmLaw, ShiryaevRoberts, Watch, promise_test
from tocsin_calibration.online.alarm_rate import MULTIPLES

N, ALPHA, DELTA = 500, 0.05, 0.01
LAW = FalseAlarmLaw.at(N, ALPHA)
RUN_LENGTH = 10_000  # of the e-detector: the mean number of responses to a false alarm is at least that
LATE = 262  # responses until x3 is found after 5,000 calm ones, when windows learnt from fewer alarms as well
LOOK = 25  # responses between two looks in long calm
EXPECTED = {"rate x2": 349, "rate x3": 92, "rate x5": 25, "shift 0.5 sd": 145, "shift 1 sd": 40}


def false_alarms(runs: int, responses: int) -> tuple[dict[str, Any], list[Check], dict[str, float]]:
    """Runs of safe traffic, each with a calibration set of its own; and how surprising the planted mistake's count
    is.
    """
    crossed = {"promise": 0, "drift": 0}
    frozen = 0
    random = np.random.default_rng(1)
    for run in range(runs):
        calibration = np.sort(random.random(N))
        scores = random.random(responses)
        watch, drift = Watch(promise_test(LAW)), DriftWatch(calibration, seed=run)
        crossings = {"promise": False, "drift": False}
        alarmed = scores > calibration[LAW.k - 1]
        for part, above in zip(np.split(scores, responses // LOOK), np.split(alarmed, responses // LOOK), strict=True):
            alarms = int(above.sum())
            watch.add((alarms, LOOK - alarms))
            drift.add(part)
            crossings["promise"] = crossings["promise"] or watch.log_evidence() >= log(1 / DELTA)
            crossings["drift"] = crossings["drift"] or drift.log_evidence() >= log(1 / DELTA)
        for name, has_crossed in crossings.items():
            crossed[name] += has_crossed
        frozen += _frozen(alarmed) >= log(1 / DELTA)
    results, checks = {}, []
    for name, count in crossed.items():
        chance = float(binom.sf(count - 1, runs, DELTA))
        results[f"{name} test"] = {"runs": runs, "responses": responses, "crossed": count, "chance of as many": chance}
        checks.append(
            Check(f"{name} test, false alarms of {runs} runs", count, f"chance > {FAILURE / 2:g}", chance > FAILURE / 2)
        )
    results["martingale against a frozen set (planted)"] = {"crossed": frozen}
    return results, checks, {"martingale against a frozen set": float(binom.sf(frozen - 1, runs, DELTA))}


def _frozen(alarmed: np.ndarray) -> float:
    """The largest log of a martingale that takes the frozen threshold's rate for exactly alpha."""
    alarms = np.cumsum(alarmed)
    calm = np.arange(1, len(alarmed) + 1) - alarms
    rate = LAW.mean_rate
    logs = [log(t) + alarms * log(m) + calm * log((1 - m * rate) / (1 - rate)) for m, t in MULTIPLES]
    return float(np.logaddexp.reduce(logs).max())


def delays(runs: int) -> tuple[dict[str, Any], list[Check]]:
    """Median responses until a change from the start is found, and one after 5,000 calm responses."""
    medians: dict[str, float] = {}
    for multiple in (2, 3, 5):
        medians[f"rate x{multiple}"] = _median(runs, lambda random, m=multiple: _promise_delay(random, m))  # type: ignore[misc]
    for shift in (0.5, 1.0):
        medians[f"shift {shift:g} sd"] = _median(runs, lambda random, s=shift: _drift_delay(random, s))  # type: ignore[misc]
    checks = [
        at_most(f"median responses until {name} is found", medians[name], 1.5 * expected)
        for name, expected in EXPECTED.items()
    ]
    for multiple in (2, 3, 5):  # one-sidedness must cost next to nothing where scores do not tie
        both = _median(runs, lambda random, m=multiple: _promise_delay(random, m, one_sided=False))  # type: ignore[misc]
        checks.append(
            at_most(f"rate x{multiple}: delay over the two-sided test's", medians[f"rate x{multiple}"] / both, 1.2)
        )
    few = max(40, runs // 5)
    late = {
        "restarts every 1,000": _median(few, lambda random: _late_delay(random, 1_000)),
        "no restarts": _median(few, lambda random: _late_delay(random, 10**9)),
        f"e-detector, run length >= {RUN_LENGTH:,}": _median(few, _late_detector),
    }
    checks.append(
        at_most("after 5,000 calm responses, until rate x3 is found", late["restarts every 1,000"], 500 + 1.5 * 92)
    )
    checks.append(
        at_most("the same over that of windows that learn in both directions", late["restarts every 1,000"] / LATE, 1.2)
    )
    table = Table(
        "change", "median responses until found", "simulated before", title="Detection delays, delta = 0.01, n = 500"
    )
    for name, value in medians.items():
        table.add_row(name, f"{value:g}", str(EXPECTED[name]))
    for name, value in late.items():
        table.add_row(f"rate x3 after 5,000 calm: {name}", f"{value:g}", "")
    console.print(table)
    return {"from the start": medians, "after 5,000 calm": late}, checks


def _median(runs: int, delay: Callable[[np.random.Generator], int]) -> float:
    return float(np.median([delay(np.random.default_rng([7, run])) for run in range(runs)]))


def _promise_delay(random: np.random.Generator, multiple: float, *, one_sided: bool = True) -> int:
    test = promise_test(LAW)
    evidence = test.log_evalue if one_sided else test.log_martingale
    alarms = np.cumsum(random.random(4_000) < multiple * ALPHA).tolist()
    crossings = (t for t in range(1, 4_001) if evidence((alarms[t - 1], t - alarms[t - 1])) >= log(1 / DELTA))
    return next(crossings, 4_000)


def _drift_delay(random: np.random.Generator, shift: float) -> int:
    drift = DriftWatch(np.sort(random.normal(size=N)), seed=0)
    for t, score in enumerate(random.normal(shift, 1, size=2_000)):
        drift.add([score])
        if drift.log_evidence() >= log(1 / DELTA):
            return t + 1
    return 2_000


def _late_delay(random: np.random.Generator, every: int) -> int:
    """The change comes anywhere between two restarts."""
    watch, calm = Watch(promise_test(LAW), every), 5_000 + int(random.integers(1_000))
    for part in np.array_split(random.random(calm) < ALPHA, calm // 50):
        watch.add((int(part.sum()), len(part) - int(part.sum())))
    for t, alarm in enumerate(random.random(8_000) < 3 * ALPHA):
        watch.add((int(alarm), 1 - int(alarm)))
        if watch.log_evidence() >= log(1 / DELTA):
            return t + 1
    return 8_000


def _late_detector(random: np.random.Generator) -> int:
    detector = ShiryaevRoberts.of(LAW)
    for alarm in random.random(5_000) < ALPHA:
        detector.add(bool(alarm))
    for t, alarm in enumerate(random.random(8_000) < 3 * ALPHA):
        if detector.add(bool(alarm)) >= RUN_LENGTH:
            return t + 1
    return 8_000
