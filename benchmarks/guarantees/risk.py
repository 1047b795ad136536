"""Guaranteed risk on large held-out sets: what is realised over many draws, and what coverage it costs."""

from __future__ import annotations

from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import binom
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.guarantees.pairs import Pair, yeast
from benchmarks.judge import FAILURE, Judge
from benchmarks.report import Check, at_most, console
from tocsin_calibration import (
    FalseAlarmLaw,
    calibrate_label_sets,
    conformal_risk_control,
    harmonise,
    learn_then_test,
    sgr,
)
from tocsin_detectors.separation import auroc

DRAWS, CALIBRATION, DELTA = 1_000, 1_000, 0.1


def selective(pair: Pair) -> tuple[dict[str, Any], list[Check]]:
    """1,000 draws of a calibration set from one pair's held-out rows; the others say what is true."""
    scores, wrong = pair.scores[:, 1], ~pair.correct
    base = float(wrong.mean())
    results: dict[str, Any] = {"pair": pair.name, "error answering everything": base}
    checks = []
    table = Table("guarantee", "risk allowed", "realised", "coverage", "best in hindsight", title=f"Risk, {pair.name}")
    allowed = base / 2
    losses, coverages, bests = np.zeros(DRAWS), np.zeros(DRAWS), np.zeros(DRAWS)
    exceeded = {"ltt": 0, "sgr": 0}
    covered: dict[str, list[float]] = {"ltt": [], "sgr": []}
    for draw in range(DRAWS):
        order = np.random.default_rng([3, draw]).permutation(len(scores))
        calibration, fresh = order[:CALIBRATION], order[CALIBRATION:]
        control = conformal_risk_control(scores[calibration], wrong[calibration], allowed)
        served = scores[fresh] <= (-np.inf if control.threshold is None else control.threshold)
        losses[draw], coverages[draw] = (served & wrong[fresh]).mean(), served.mean()
        by_score = np.argsort(scores[fresh], kind="stable")
        total = np.cumsum(wrong[fresh][by_score]) / len(fresh)
        bests[draw] = np.searchsorted(total, allowed, side="right") / len(fresh)
        for name, method in (("ltt", learn_then_test), ("sgr", sgr)):
            guarantee = method(scores[calibration], wrong[calibration], allowed, DELTA, seed=draw)
            if guarantee.threshold is not None:
                chosen = scores[fresh] <= guarantee.threshold
                exceeded[name] += bool(wrong[fresh][chosen].mean() > allowed) if chosen.any() else False
                covered[name].append(float(chosen.mean()))
            else:
                covered[name].append(0.0)
    error = float(losses.std() / DRAWS**0.5)
    results["crc"] = {"allowed": allowed, "realised": float(losses.mean()), "standard error": error,
                      "coverage": float(coverages.mean()), "best in hindsight": float(bests.mean())}  # fmt: skip
    table.add_row("conformal risk control", f"{allowed:.3%}", f"{losses.mean():.3%}", f"{coverages.mean():.1%}",
                  f"{bests.mean():.1%}")  # fmt: skip
    checks.append(at_most(f"CRC on {pair.name}: realised risk over allowed plus 3 errors",
                          float(losses.mean()) / (allowed + 3 * error), 1.0))  # fmt: skip
    checks.append(at_most(f"CRC on {pair.name}: coverage short of the best in hindsight",
                          float(bests.mean() - coverages.mean()), 0.02))  # fmt: skip
    for name, count in exceeded.items():
        chance = float(binom.sf(count - 1, DRAWS, DELTA))
        results[name] = {"allowed": allowed, "draws over it": count, "coverage": float(np.mean(covered[name]))}
        excess = f"over it in {count / DRAWS:.1%} of draws (at most {DELTA:.0%})"
        table.add_row(name.upper(), f"{allowed:.3%}", excess, f"{np.mean(covered[name]):.1%}", "")
        checks.append(
            Check(f"{name.upper()} on {pair.name}: draws over the risk", count, f"chance > {FAILURE / 2:g}",
                  chance > FAILURE / 2)
        )  # fmt: skip
    console.print(table)
    return results, checks


def label_sets(judge: Judge, splits: int) -> tuple[dict[str, Any], list[Check]]:
    """Yeast: coverage of true label sets over random splits, left to the judge; fifty labels: time a response."""
    scores, truth = yeast()
    sizes = []
    for split in range(splits):
        order = np.random.default_rng([5, split]).permutation(len(scores))
        calibration, fresh = order[:400], order[400:500]
        predictor = calibrate_label_sets(scores[calibration], truth[calibration], 0.1)
        sets = [predictor.sets(s) for s in scores[fresh]]
        missed = sum(t not in s for s, t in zip(sets, truth[fresh], strict=True))
        judge.counts("label sets, Yeast", 0.1, [(FalseAlarmLaw.at(len(calibration), 0.1), len(fresh))], missed)
        sizes += [s.count(5_000) for s in sets[:5]]
    random = np.random.default_rng(6)
    many = random.random((500, 50)) < 0.2
    shown = np.clip(many * 0.8 + 0.1 + 0.15 * random.normal(size=many.shape), 0, 1)
    fifty, durations = calibrate_label_sets(shown[:300], many[:300], 0.1), []
    for row in shown[300:]:
        started = perf_counter()
        list(islice(fifty.sets(row), 100))
        durations.append((perf_counter() - started) * 1e3)
    results = {
        "Yeast, median sets of 16,384": float(np.median(sizes)),
        "fifty labels, ms a response": float(np.median(durations)),
    }
    console.print(
        f"label sets: of Yeast's 16,384, {results['Yeast, median sets of 16,384']:g} are believable in the median; "
        f"fifty labels: {results['fifty labels, ms a response']:.2f} ms for the nearest 100"
    )
    return results, [at_most("label sets, fifty labels: ms a response", results["fifty labels, ms a response"], 10)]


def harmonised() -> tuple[dict[str, float], list[Check]]:
    """AUROC for a model's wrong answers on digits, of weak sources alone, by vote, and harmonised; five draws."""
    totals: dict[str, list[float]] = {}
    for seed in range(5):
        data = load_digits()
        order = np.random.default_rng(seed).permutation(len(data.data))
        x, y = data.data[order] / 16, data.target[order]
        few, rest = slice(0, 60), slice(60, None)
        model = LogisticRegression(max_iter=500).fit(x[few], y[few]).predict(x[rest])
        weak = {
            "naive Bayes, upper half": (GaussianNB(var_smoothing=0.1), slice(0, 32)),
            "1 neighbour, lower half": (KNeighborsClassifier(1), slice(32, 64)),
            "3 neighbours, even pixels": (KNeighborsClassifier(3), slice(0, 64, 2)),
        }
        said = np.stack([m.fit(x[few][:, c], y[few]).predict(x[rest][:, c]) for m, c in weak.values()], axis=1)
        said[np.random.default_rng(seed).random(said.shape) < 0.2] = -1
        wrong = model != y[rest]
        against = np.where(said < 0, 0.5, said != model[:, None])
        risks = {name: against[:, at] for at, name in enumerate(weak)} | {"majority vote": against.mean(axis=1)}
        sources = np.hstack([model[:, None], said])
        for how in ("linear", "quadratic", "chebyshev"):
            risks[f"harmonised, {how}"] = harmonise(x[rest], sources, 10, how).risk(x[rest], model)
        for name, risk in risks.items():
            totals.setdefault(name, []).append(auroc(risk[~wrong], risk[wrong]))
    aurocs = {name: float(np.mean(values)) for name, values in totals.items()}
    table = Table("risk by", "AUROC for wrong answers", title="Weak sources without labels, digits")
    for name, value in aurocs.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    best = max(value for name, value in aurocs.items() if not name.startswith("harmonised"))
    gain = aurocs["harmonised, quadratic"] - best
    return aurocs, [Check("harmonised over the better of vote and sources, AUROC", round(gain, 4), "> 0", gain > 0)]
