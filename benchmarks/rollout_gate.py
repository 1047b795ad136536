"""A gate for rollouts beside a threshold with a failure limit, on the same traffic: python -m benchmarks.rollout_gate

Canaries of 20,000 responses, beside a stable version of four times as many. Wrong decisions are counted over all looks,
one after every batch, and held to the binomial law at 1e-4; decisions on bad canaries are told by how many canary
responses they took. The threshold is what AnalysisTemplates usually have: every 100 canary responses their share of
alarms is measured, a measurement fails at a multiple of the promised rate, and the fourth failure aborts
(`failureLimit: 3`).
"""

from __future__ import annotations

from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin_calibration.online.ratio_alternatives import Direction
from tocsin_calibration.online.rollout_gate import RolloutGate
from tocsin_calibration.online.two_streams import AgainstRate, Pairs, StreamComparison, Streams
from tocsin_calibration.thresholds.binomial import binomial_quantile

RUNS, RESPONSES, BATCH, TIMES = 500, 20_000, 50, 4
LOOKS = RESPONSES // BATCH
ALPHA = 0.05
SURE = 1 - 1e-4
INTERVAL, FAILURES = 100, 3  # responses a measurement, and failures that are let pass
GATE = RolloutGate()
HOURS = ALPHA * np.exp(1.2 * np.sin(np.arange(LOOKS) / 20))  # the same for both versions: good hours and bad ones
WORSE = (1.5, 2.0, 3.0, 5.0)

Floats = NDArray[np.float64]


class Traffic(NamedTuple):
    """Alarms (RUNS, LOOKS) in batches of the canary and of the stable version."""

    canary: Floats
    stable: Floats


def traffic(rates: Floats, times: float, seed: int) -> Traffic:
    """A canary that alarms `times` as often as the stable version at its rates (LOOKS,)."""
    draw = np.random.default_rng(seed)
    size = (RUNS, LOOKS)
    canary = draw.binomial(BATCH, np.minimum(1, rates * times), size)
    return Traffic(canary.astype(float), draw.binomial(BATCH * TIMES, rates, size).astype(float))


def decided(comparison: StreamComparison, ratio: float, direction: Direction, probability: float) -> Floats:
    """After how many canary responses each run's evidence is enough (RUNS,); infinite where it never is."""
    trust, increments = comparison.log_increments(ratio, direction)
    sums = np.cumsum(increments.reshape(len(trust), RUNS, LOOKS), axis=2) + np.log(trust)[:, None, None]
    return _first(np.logaddexp.reduce(sums, axis=0) >= log(1 / probability), BATCH)


def beside_stable(observed: Traffic) -> Streams:
    """All runs' batches, one after the other."""
    ones = np.ones(observed.canary.size)
    return Streams(observed.canary.ravel(), BATCH * ones, observed.stable.ravel(), TIMES * BATCH * ones, ALPHA)


def beside_rate(observed: Traffic) -> AgainstRate:
    """The canary alone, beside the promised rate."""
    return AgainstRate(observed.canary.ravel(), np.full(observed.canary.size, float(BATCH)), ALPHA)


def shadowed(times: float, seed: int) -> Pairs:
    """A candidate on the live bundle's own responses: half of the live one's alarms are the candidate's, too."""
    draw = np.random.default_rng(seed)
    chances = [ALPHA / 2, ALPHA * (times - 0.5), ALPHA / 2]
    kinds = draw.multinomial(BATCH, [*chances, 1 - sum(chances)], (RUNS, LOOKS)).reshape(-1, 4).astype(float)
    return Pairs(kinds.sum(axis=1), kinds[:, 0], kinds[:, 1], kinds[:, 2])


def threshold(observed: Traffic, limit: float) -> Floats:
    """After how many canary responses the fourth measurement is at `limit` or above (RUNS,)."""
    measured = observed.canary.reshape(RUNS, RESPONSES // INTERVAL, INTERVAL // BATCH).sum(axis=2) / INTERVAL
    return _first(np.cumsum(measured >= limit, axis=1) > FAILURES, INTERVAL)


def _first(reached: NDArray[np.bool_], step: int) -> Floats:
    return np.where(reached.any(axis=1), (reached.argmax(axis=1) + 1.0) * step, np.inf)


def wrong_decisions() -> tuple[list[dict[str, Any]], list[Check]]:
    """The share of wrong decisions on canaries at the limit of the allowed rate."""
    steady = np.full(LOOKS, ALPHA)
    aborts: list[tuple[str, StreamComparison]] = []
    promotions: list[tuple[str, StreamComparison]] = []
    for at, (name, rates) in enumerate({"steady": steady, "good and bad hours": HOURS}.items()):
        aborts.append((f"beside stable, {name}", beside_stable(traffic(rates, 1.0, 10 + at))))
        promotions.append((f"beside stable, {name}", beside_stable(traffic(rates, GATE.excess, 20 + at))))
    aborts += [("beside the promised rate", beside_rate(traffic(steady, 1.0, 30))), ("a shadow", shadowed(1.0, 31))]
    promotions += [
        ("beside the promised rate", beside_rate(traffic(steady, GATE.excess, 40))),
        ("a shadow", shadowed(GATE.excess, 41)),
    ]
    results, checks = [], []
    for what, cases, ratio, direction, probability in (
        ("wrong aborts", aborts, 1.0, "above", GATE.delta),
        ("wrong promotions", promotions, GATE.excess, "below", GATE.beta),
    ):
        for name, comparison in cases:
            wrong = int(np.isfinite(decided(comparison, ratio, direction, probability)).sum())  # type: ignore[arg-type]
            allowed = binomial_quantile(SURE, RUNS, probability)
            results.append({"what": what, "case": name, "wrong": wrong, "runs": RUNS, "allowed": allowed})
            checks.append(at_most(f"{what}, {name}, of {RUNS}", wrong, allowed))
    return results, checks


def delays() -> tuple[list[dict[str, Any]], list[Check]]:
    """After how many canary responses a bad canary is aborted, and a good one promoted."""
    steady, results, checks = np.full(LOOKS, ALPHA), [], []
    table = Table("the canary alarms", "by", "aborted", "median responses", "of 95%", title="Aborts")
    for at, times in enumerate((1.0, *WORSE)):
        for name, rates in {"steady": steady, "good and bad hours": HOURS}.items():
            observed = traffic(rates, times, 50 + at)
            ways = {"the gate, beside stable": decided(beside_stable(observed), 1.0, "above", GATE.delta)}
            if name == "steady":
                ways["the gate, beside the rate"] = decided(beside_rate(observed), 1.0, "above", GATE.delta)
            for limit in (1.5, 2.0):
                ways[f"a threshold of {limit:g} times the rate"] = threshold(observed, limit * ALPHA)
            for way, responses in ways.items():
                aborted = int(np.isfinite(responses).sum())
                median, most = (float(np.quantile(responses, q, method="higher")) for q in (0.5, 0.95))
                shown = f"{times:g} times, {name}"
                table.add_row(shown, way, f"{aborted} of {RUNS}", _count(median), _count(most))
                results.append({"times": times, "traffic": name, "way": way, "aborted": aborted, "runs": RUNS,
                                "median_responses": _finite(median), "responses_95": _finite(most)})  # fmt: skip
                if times >= 2 and way.startswith("the gate"):
                    checks.append(Check(f"{way}, {shown}: aborted", aborted, f"{RUNS}", aborted == RUNS))
    console.print(table)
    table = Table("the canary alarms", "promoted", "median responses", title=f"Promotions, excess {GATE.excess:g}")
    for at, times in enumerate((0.5, 1.0, 1.2)):
        responses = decided(beside_stable(traffic(steady, times, 70 + at)), GATE.excess, "below", GATE.beta)
        promoted, median = int(np.isfinite(responses).sum()), float(np.quantile(responses, 0.5, method="higher"))
        table.add_row(f"{times:g} times", f"{promoted} of {RUNS}", _count(median))
        results.append({"times": times, "way": "promotion", "promoted": promoted, "runs": RUNS,
                        "median_responses": _finite(median)})  # fmt: skip
    console.print(table)
    return results, checks


def _count(responses: float) -> str:
    return f"{responses:,.0f}" if np.isfinite(responses) else "never"


def _finite(responses: float) -> float | None:
    return responses if np.isfinite(responses) else None


def main() -> None:
    """Run both parts and say what holds."""
    options = arguments("A gate for rollouts beside a threshold with a failure limit.")
    wrong, checks = wrong_decisions()
    slow, more = delays()
    finish({"wrong decisions": wrong, "delays": slow}, checks + more, options.json)


if __name__ == "__main__":
    main()
