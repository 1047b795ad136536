"""Beside crepes, MAPIE and venn-abers: the same numbers where they compute the same thing, and what they cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.report import Check, at_most, console
from tocsin_calibration import VennAbers, pvalues, smoothed_pvalues
from tocsin_calibration.risk.selective import hoeffding_bentkus
from tocsin_calibration.thresholds.limits import Limits

N = 10_000


def equality() -> tuple[dict[str, float], list[Check]]:
    """The largest difference to each peer."""
    from crepes.base import p_values_batch
    from mapie.exchangeability_testing import OnlineMartingaleTest
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
    from venn_abers import VennAbers as TheirVennAbers

    random = np.random.default_rng(1)
    calibration, new = np.sort(random.normal(size=500).round(2)), random.normal(size=300).round(2)
    plain = np.abs(pvalues(calibration, new) - p_values_batch(calibration, new, smoothing=False)).max()
    np.random.seed(3)
    theta = np.random.rand(len(new))
    theirs = p_values_batch(calibration, new, smoothing=True, seed=3)
    smoothed = np.abs(smoothed_pvalues(calibration, new, theta) - theirs).max()
    theirs_mapie = OnlineMartingaleTest(random_state=0)
    low, high = smoothed_pvalues(calibration, new, 1e-12), smoothed_pvalues(calibration, new, 1 - 1e-12)
    drawn = np.array([theirs_mapie.compute_p_value(float(s), calibration) for s in new])
    outside = float(np.maximum(low - drawn, drawn - high).max())
    means = np.arange(0, 41) / 40
    ours = np.array([hoeffding_bentkus(m, 40, 0.2) for m in means])
    bound = np.abs(ours - np.minimum(1, compute_hoeffding_bentkus_p_value(means, 40, 0.2)[:, 0])).max()
    confidence = random.random(400).round(3)
    right = random.random(400) < confidence
    test = np.linspace(0.0005, 0.9995, 400).round(4)
    low_ours, high_ours = VennAbers.fit(-confidence, right).interval(-test)
    peer = TheirVennAbers()
    peer.fit(np.stack([1 - confidence, confidence], axis=1), right.astype(int))
    _, interval = peer.predict_proba(np.stack([1 - test, test], axis=1))
    venn = float(max(np.abs(low_ours - interval[:, 0]).max(), np.abs(high_ours - interval[:, 1]).max()))
    differences = {
        "p-values, crepes": float(plain),
        "smoothed p-values, crepes": float(smoothed),
        "smoothed p-values, MAPIE (outside the range that its draw allows)": max(0.0, outside),
        "Hoeffding-Bentkus p-values, MAPIE": float(bound),
        "Venn-Abers intervals, venn-abers": venn,
    }
    table = Table("the same thing", "largest difference", title="Equality")
    for name, value in differences.items():
        table.add_row(name, f"{value:.2g}")
    console.print(table)
    return differences, [
        Check(f"{name}: largest difference", value, "<= 1e-09", value <= 1e-9) for name, value in differences.items()
    ]


def costs(rounds: int = 15) -> tuple[dict[str, float], list[Check]]:
    """Microseconds a p-value at n = 10,000, one by one and 2,000 at once, interleaved, medians."""
    from crepes.base import p_values_batch
    from mapie.exchangeability_testing import OnlineMartingaleTest

    random = np.random.default_rng(2)
    calibration, new = np.sort(random.normal(size=N)), random.normal(size=2_000)
    limits = Limits(calibration, {"alarm": 0.05})
    one_by_one, singles = new[:1_000].tolist(), [new[i : i + 1] for i in range(1_000)]
    mapie = OnlineMartingaleTest(random_state=0)
    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "one by one, tocsin": (lambda: [limits.pvalue(score) for score in one_by_one], 1_000),
        "one by one, crepes": (
            lambda: [p_values_batch(calibration, single, smoothing=False) for single in singles],
            1_000,
        ),
        "one by one, MAPIE": (lambda: [mapie.compute_p_value(score, calibration) for score in one_by_one], 1_000),
        "in bulk, tocsin": (lambda: limits.pvalues(new), len(new)),
        "in bulk, crepes": (lambda: p_values_batch(calibration, new, smoothing=False), len(new)),
    }
    durations: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (run, count) in runs.items():
            started = time.perf_counter()
            run()
            durations[name].append((time.perf_counter() - started) / count * 1e6)
    medians = {name: statistics.median(times) for name, times in durations.items()}
    table = Table("p-values at n = 10,000", "us each", title="Cost")
    for name, value in medians.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    times = min(medians["one by one, crepes"], medians["one by one, MAPIE"]) / medians["one by one, tocsin"]
    return medians, [
        Check("times cheaper than the better of crepes and MAPIE, one by one", round(times, 1), ">= 20", times >= 20),
        at_most("in bulk, as a share of crepes", medians["in bulk, tocsin"] / medians["in bulk, crepes"], 1.0),
    ]
