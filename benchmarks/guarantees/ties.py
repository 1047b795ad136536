"""Evidence on scores as they are: rounded, constant, saturated, contaminated, easier. How often does calm page?"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import binom

from benchmarks.judge import FAILURE
from benchmarks.report import Check, console
from tocsin.replay.replay import tally_of
from tocsin.sinks.evidence import Evidence
from tocsin_calibration import DriftWatch, Watch, calibrate, promise_test, quiet_test
from tocsin_calibration.online.urn import cell_edges, drift_test
from tocsin_calibration.thresholds.limits import Limits
from tocsin_calibration.thresholds.terms import Guarantee

ALPHA, DELTA, LOOK = 0.05, 0.01, 100
SIZES = (25, 100, 500, 2_000, 10_000)  # calibration scores, one after the other
Draw = Callable[[np.random.Generator, int], np.ndarray]
Make = Callable[[np.random.Generator, int, int], tuple[Limits, np.ndarray]]


def _saturated(random: np.random.Generator, m: int) -> np.ndarray:
    """1 - the largest of two probabilities in float32, of a model that is sure of nearly everything."""
    z = (random.normal(size=m) * 8 + 34).astype(np.float32)
    return np.asarray(1 - 1 / (1 + np.exp(-z)), np.float64)


LAWS: dict[str, Draw] = {
    "continuous": lambda random, m: random.normal(size=m),
    "rounded to 0.1 sd": lambda random, m: np.round(random.normal(size=m), 1),
    "rounded to 1 sd": lambda random, m: np.round(random.normal(size=m)),
    "0/1, 0.5%": lambda random, m: (random.random(m) < 0.005).astype(float),
    "0/1, 3%": lambda random, m: (random.random(m) < 0.03).astype(float),
    "an atom of 1% at the threshold": lambda random, m: np.where(random.random(m) < 0.01, 0.95, random.random(m)),
    "constant": lambda random, m: np.zeros(m),
    "Poisson": lambda random, m: random.poisson(2, m).astype(float),
    "saturated softmax": _saturated,
}


def _contaminated(random: np.random.Generator, n: int, responses: int) -> tuple[Limits, np.ndarray]:
    scores = random.normal(size=n)
    scores[: n // 50] = 9 if random.random() < 0.5 else -9
    return Limits(scores, {"alarm": ALPHA}, Guarantee(contaminated=0.02)), random.normal(size=responses)


def _easier(random: np.random.Generator, n: int, responses: int) -> tuple[Limits, np.ndarray]:
    return Limits(random.normal(size=n), {"alarm": ALPHA}), random.normal(size=responses) - 0.7


def _easier_for_a_time(random: np.random.Generator, n: int, responses: int) -> tuple[Limits, np.ndarray]:
    limits, live = _easier(random, n, responses)
    live[responses // 2 :] += 0.7
    return limits, live


def _weighted(random: np.random.Generator, n: int, responses: int) -> tuple[Limits, np.ndarray]:
    """Traffic in which a response comes exp(x/2) times as often as in the recording, up to a factor."""
    x = random.normal(size=n)
    scores = x + random.normal(size=n)
    return Limits(scores, {"alarm": ALPHA}, weights=np.exp(x / 2)), random.normal(0.5, 2**0.5, size=responses)


def _tenants(random: np.random.Generator, rows: int) -> tuple[np.ndarray, list[str]]:
    """Scores (n, 1) of ten large tenants, and of two hundred small ones that are harder."""
    large = random.random(rows) < 0.8
    names = np.where(large, random.integers(10, size=rows), 100 + random.integers(200, size=rows))
    return (random.normal(size=rows) * np.where(large, 1.0, 1.4))[:, None], names.astype(str).tolist()


def groups(runs: int, responses: int) -> tuple[dict[str, Any], list[Check], dict[str, float]]:
    """The same for promises by group: those of small groups are held to one together, never to the pooled one."""
    paged = fallback = 0
    for run in range(runs):
        random = np.random.default_rng([19, run])
        scores, names = _tenants(random, 4_000)
        promise = calibrate(scores, {"alarm": ALPHA}, groups=names, seed=run)
        evidence = Evidence(promise, 1_000, fixed=True, seed=run)
        pooled = Watch(promise_test(promise.laws["alarm"]))
        live, names = _tenants(random, responses)
        crossed = [False, False]
        for at in range(0, responses, 2 * LOOK):
            rows, of = live[at : at + 2 * LOOK], names[at : at + 2 * LOOK]
            evidence.read(tally_of(promise, promise.judge(rows, of).severities, of, []))
            crossed[0] |= evidence.promise()["alarm"] >= log(1 / DELTA)
            small = np.asarray([name not in promise.groups for name in of])
            alarms = int((promise.joint(rows)[small] > promise.thresholds["alarm"]).sum())
            pooled.add((alarms, int(small.sum()) - alarms))
            crossed[1] |= pooled.log_evidence() >= log(1 / DELTA)
        paged, fallback = paged + crossed[0], fallback + crossed[1]
    chance = float(binom.sf(paged - 1, runs, DELTA))
    check = Check("small groups: promise test, runs that ever page", paged, f"chance > {FAILURE:g}", chance > FAILURE)
    results = {"runs": runs, "responses": responses, "ever paged": paged, "pooled fallback": fallback}
    return results, [check], {"pooled fallback": float(binom.sf(fallback - 1, runs, DELTA))}


def _exchangeable(draw: Draw) -> Make:
    return lambda random, n, responses: (Limits(draw(random, n), {"alarm": ALPHA}), draw(random, responses))


# What is calibrated and what comes, with the tests that may then page with probability delta at most.
SETTINGS: dict[str, tuple[Make, tuple[str, ...]]] = {
    **{name: (_exchangeable(draw), ("promise", "quiet", "drift")) for name, draw in LAWS.items()},
    "2% of calibration bad": (_contaminated, ("promise", "quiet")),
    "weighted": (_weighted, ("promise",)),
    "easier traffic": (_easier, ("promise",)),
    "easier for a time": (_easier_for_a_time, ("promise",)),
}

LEAST: dict[Make, int] = {_contaminated: 100, _weighted: 500}  # calibration scores that the promise itself asks for


def calm(runs: int, responses: int) -> tuple[dict[str, Any], list[Check], dict[str, float]]:
    """Runs of calm in each setting: how many ever page; and how surprising the counts of planted mistakes are."""
    judged = sum(len(tests) for _, tests in SETTINGS.values())
    table = Table("scores", "test", f"ever paged, of {runs}", title=f"Calm, {responses:,} responses, delta = {DELTA:g}")
    results: dict[str, Any] = {}
    checks = []
    mistakes = {"two-sided promise test": 0, "ties broken anew": 0}
    for number, (name, (make, tests)) in enumerate(SETTINGS.items()):
        paged = dict.fromkeys(tests, 0)
        for run in range(runs):
            random = np.random.default_rng([17, number, run])
            n = SIZES[run % len(SIZES)]
            least = LEAST.get(make, 0)
            limits, live = make(random, max(n, least), responses)
            for test in _pages(limits, live, tests, number * runs + run):
                paged[test] += 1
            if name == "easier traffic":
                mistakes["two-sided promise test"] += _two_sided(limits, live)
            if name == "constant":
                mistakes["ties broken anew"] += _ties_anew(limits, live, run)
        results[name] = {"runs": runs, "responses": responses, "ever paged": paged}
        for test, count in paged.items():
            chance = float(binom.sf(count - 1, runs, DELTA))
            table.add_row(name, test, str(count))
            checks.append(
                Check(f"{name}: {test} test, runs that ever page", count, f"chance > {FAILURE / judged:.2g}",
                      chance > FAILURE / judged)
            )  # fmt: skip
    console.print(table)
    surprises = {name: float(binom.sf(count - 1, runs, DELTA)) for name, count in mistakes.items()}
    return results, checks, surprises


def _pages(limits: Limits, live: np.ndarray, tests: tuple[str, ...], seed: int) -> set[str]:
    """Which of the tests ever page."""
    law = limits.laws["alarm"]
    quiet = quiet_test(law, limits.above["alarm"]) if "quiet" in tests else None
    watch = Watch(promise_test(law, learns=limits.exact["alarm"]), quiet=quiet)
    drift = DriftWatch(limits.ordered, auxiliary=seed, seed=seed + 10**9) if "drift" in tests else None
    paging = set()
    for part in np.split(live, len(live) // LOOK):
        alarms = int((part > limits.thresholds["alarm"]).sum())
        watch.add((alarms, LOOK - alarms))
        if watch.log_evidence() >= log(1 / DELTA):
            paging.add("promise")
        if (watch.log_quiet_evidence() or 0.0) >= log(1 / DELTA):
            paging.add("quiet")
        if drift is not None:
            drift.add(part)
            if drift.log_evidence() >= log(1 / DELTA):
                paging.add("drift")
    return paging


def _two_sided(limits: Limits, live: np.ndarray) -> bool:
    """The martingale itself as evidence: alternatives more pliable than the null fit rare alarms better, too."""
    test = promise_test(limits.laws["alarm"])
    alarms = np.cumsum(live > limits.thresholds["alarm"])[LOOK - 1 :: LOOK].tolist()
    logs = [test.log_martingale((a, LOOK * (at + 1) - a)) for at, a in enumerate(alarms)]
    return max(logs) >= log(1 / DELTA)


def _ties_anew(limits: Limits, live: np.ndarray, seed: int) -> bool:
    """A planted mistake: the gap of a tied score is drawn again each time, so ranks are uniform, but no urn."""
    random, calibration = np.random.default_rng(seed), limits.ordered
    watch, edges = Watch(drift_test(calibration.n)), cell_edges(calibration.n)[1:-1]
    for part in np.split(live, len(live) // LOOK):
        gaps = random.integers(calibration.below(part), calibration.at_most(part), endpoint=True)
        watch.add(np.bincount(np.searchsorted(edges, gaps, side="right"), minlength=len(edges) + 1).tolist())
        if watch.log_evidence() >= log(1 / DELTA):
            return True
    return False
