"""Which, and since when, and slow change: names that are wrong, names that are right, times, on real scores."""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from scipy.special import betaln
from scipy.stats import binom

from benchmarks.guarantees.pairs import Pair
from benchmarks.judge import FAILURE
from benchmarks.report import Check, at_most, console
from tocsin.replay.replay import tally_of
from tocsin.sinks.causes import Cause
from tocsin.sinks.evidence import Evidence
from tocsin_calibration import FalseAlarmLaw, Promise, Watch, calibrate, promise_test
from tocsin_calibration.thresholds.terms import Guarantee

DELTA, ALPHA, LOOK = 0.01, 0.05, 20
CALIBRATION, MOST = 1_600, 6_000  # responses that are calibrated on, and after a change at most
KINDS = ("detector", "group", "version")
Rows = np.ndarray


class Traffic(NamedTuple):
    """Responses: detectors' scores (m, d), and each one's group and version."""

    scores: Rows
    groups: list[str]
    versions: list[str]


class Source:
    """Responses drawn from those of a real pair, one like the other: so calibration and live are exchangeable."""

    def __init__(self, pair: Pair, random: np.random.Generator) -> None:
        self._scores, self._random = pair.scores.astype(np.float32), random  # as a scorer gives them
        _, said = np.unique(pair.said, return_inverse=True)
        self._groups = np.array([f"class {number % 3}" for number in said], object)
        self.detectors = ("entropy", "max_softmax", "mahalanobis")
        # Of each row how far up it lies, by the mean of its ranks: what is drawn from above is harder in all detectors.
        ranks = pair.scores.argsort(axis=0).argsort(axis=0)
        self._hard = ranks.mean(axis=1).argsort()[-len(said) // 4 :]

    def draw(self, rows: int) -> Traffic:
        """So many responses; every other one of version v2."""
        at = self._random.integers(len(self._scores), size=rows)
        versions = np.where(self._random.random(rows) < 0.5, "v1", "v2")
        return Traffic(self._scores[at].copy(), self._groups[at].tolist(), versions.tolist())

    def change(self, traffic: Traffic, kind: str, name: str) -> Traffic:
        """The same where a third of the scores of one detector come from its highest quarter; or two thirds of the
        responses of a group or version from the hardest quarter of all.
        """
        rows = len(traffic.scores)
        if kind == "detector":
            column = self.detectors.index(name)
            ordered = np.sort(self._scores[:, column])
            changed = np.flatnonzero(self._random.random(rows) < 1 / 3)
            above = self._random.integers(3 * len(ordered) // 4, len(ordered), size=len(changed))
            traffic.scores[changed, column] = ordered[above]
            return traffic
        part = np.array(traffic.groups if kind == "group" else traffic.versions) == name
        changed = np.flatnonzero(part & (self._random.random(rows) < 2 / 3))
        traffic.scores[changed] = self._scores[self._random.choice(self._hard, len(changed))]
        return traffic


class Watched:
    """The evidence of one calibration set."""

    def __init__(self, source: Source, seed: int) -> None:
        calibration = source.draw(CALIBRATION)
        self.promise: Promise = calibrate(
            calibration.scores, {"alarm": ALPHA}, groups=calibration.groups, detectors=source.detectors, seed=seed
        )
        self.rows = 0
        self.evidence = Evidence(self.promise, 1_000, fixed=True, seed=seed, clock=lambda: float(self.rows))

    def see(self, traffic: Traffic) -> None:
        self.rows += len(traffic.scores)
        judged = self.promise.judge(traffic.scores, traffic.groups)
        facts = tally_of(
            self.promise, judged.severities, traffic.groups, judged.joint, traffic.scores, traffic.versions
        )
        self.evidence.read(facts)

    def detects(self) -> bool:
        """Whether the joint evidence would page: more alarms than promised, or drift."""
        joint = max(self.evidence.promise()["alarm"], self.evidence.drift() or 0.0)
        return joint > log(1 / DELTA)

    def named(self) -> list[Cause]:
        return [cause for cause in self.evidence.causes() if cause.log_evalue > log(1 / DELTA)]


def calm(pairs: Iterable[Pair], runs: int, responses: int) -> tuple[dict[str, Any], list[Check]]:
    """Runs of calm on every pair: how often any part of the traffic is ever named, by kind and in all."""
    every = list(pairs)
    wrong, total = dict.fromkeys([*KINDS, "any"], 0), 0
    for number, pair in enumerate(every):
        for run in range(runs):
            source = Source(pair, np.random.default_rng([41, number, run]))
            watched, kinds = Watched(source, run), set()
            for _ in range(responses // (5 * LOOK)):
                watched.see(source.draw(5 * LOOK))
                kinds |= {cause.kind for cause in watched.named()}
            total += 1
            for kind in kinds:
                wrong[kind] += 1
            wrong["any"] += bool(kinds)
    checks, results = [], {"runs": total, "responses": responses, "ever named": wrong}
    for named, count in wrong.items():
        chance = float(binom.sf(count - 1, total, DELTA))
        checks.append(
            Check(f"causes, {named}: calm runs of {total} that ever name one", count,
                  f"chance > {FAILURE / 4:.2g}", chance > FAILURE / 4)
        )  # fmt: skip
    return results, checks


class Outcome(NamedTuple):
    """One planted change that was detected: responses until then, how far off the estimated time was then, responses
    until the right part was named (infinity: not within MOST), and whether an innocent one was, before or until then.
    """

    delay: int
    off: int
    named: float
    innocent: bool


def planted(pairs: Iterable[Pair], runs: int) -> tuple[dict[str, Any], list[Check]]:
    """Changes of one detector, group or version of real scores: who is named, and since when."""
    every = list(pairs)
    table = Table(
        "changed", "runs", "detected", "delay, median", "the right one named", "after, median", "an innocent one named",
        "time off, share of the delay", title=f"Planted changes, delta = {DELTA:g}",
    )  # fmt: skip
    results: dict[str, Any] = {}
    checks: list[Check] = []
    for kind in KINDS:
        outcomes: list[Outcome] = []
        tried = 0
        for number, pair in enumerate(every):
            for run in range(runs):
                tried += 1
                outcome = _changed(pair, kind, np.random.default_rng([43, KINDS.index(kind), number, run]), run)
                outcomes += [] if outcome is None else [outcome]
        detected = len(outcomes)
        named, innocent = sum(o.named <= MOST for o in outcomes), sum(o.innocent for o in outcomes)
        off, delay, after = (
            float(np.median(values))
            for values in (
                [o.off / o.delay for o in outcomes],
                [o.delay for o in outcomes],
                [o.named for o in outcomes],
            )
        )
        table.add_row(kind, str(tried), str(detected), f"{delay:g}", f"{named / detected:.1%}", f"{after:g}",
                      str(innocent), f"{off:.1%}")  # fmt: skip
        results[kind] = {"runs": tried, "detected": detected, "delay": delay, "named": named, "after": after,
                         "innocent": innocent, "time off": off}  # fmt: skip
        chance = float(binom.sf(innocent - 1, detected, DELTA))
        checks += [
            Check(f"{kind} changed: the right one named", round(named / detected, 4),
                  ">= 0.9", named >= 0.9 * detected),
            Check(f"{kind} changed: an innocent one named", innocent, f"chance > {FAILURE / 3:.2g}",
                  chance > FAILURE / 3),
            at_most(f"{kind} changed: time off, median share of the delay", off, 0.2),
        ]  # fmt: skip
    console.print(table)
    return results, checks


def _changed(pair: Pair, kind: str, random: np.random.Generator, seed: int) -> Outcome | None:
    """What was named for a planted change; None where it was not detected, or the kind has one part only."""
    source = Source(pair, random)
    watched = Watched(source, seed)
    names = {"detector": source.detectors, "group": tuple(watched.promise.groups), "version": ("v1", "v2")}[kind]
    if len(names) < 2:
        return None
    name = names[int(random.integers(len(names)))]
    start = 1_000 + LOOK * int(random.integers(50))
    watched.see(source.draw(start))
    outcome: Outcome | None = None
    named_after, innocent = float("inf"), False
    for delay in range(LOOK, MOST + 1, LOOK):
        watched.see(source.change(source.draw(LOOK), kind, name))
        named = {cause.name for cause in watched.named() if cause.kind == kind}
        innocent |= bool(named - {name})
        if name in named:
            named_after = min(named_after, delay)
        if outcome is None and watched.detects():
            change = watched.evidence.change()
            assert change is not None
            outcome = Outcome(delay, abs(change.after - start), float("inf"), False)
        if outcome is not None and named_after <= MOST:
            break
    return None if outcome is None else outcome._replace(named=named_after, innocent=innocent)


def slow(runs: int) -> tuple[dict[str, Any], list[Check]]:
    """1.3 times the promised rate after 5,000 calm responses: the share of runs in which it is found within 20,000.

    Each run has a calibration set of its own, and so a rate of its own while it is calm. A promise on average is at
    that rate already in half of the sets: how many of those runs any test could find is told beside.
    """
    table = Table("promise", "n", "found within 20,000", "median responses", "by any test, at most",
                  title="1.3 times the promised rate")  # fmt: skip
    results: dict[str, Any] = {}
    checks: list[Check] = []
    for kind, terms, sizes in (
        ("with confidence, by default", Guarantee.chosen(None, False), (500, 2_000, 10_000)),
        ("on average", Guarantee.chosen(None, True), (500, 10_000)),
    ):
        for n in sizes:
            law = FalseAlarmLaw(n, terms.rank(n, ALPHA))
            delays = [_slow_delay(law, np.random.default_rng([47, n, run])) for run in range(runs)]
            detected = sum(delay <= 20_000 for delay in delays)
            best, median = _by_any_test(law), float(np.median(delays))
            table.add_row(kind, f"{n:,}", f"{detected / runs:.1%}", f"{median:,.0f}", f"{best:.1%}")
            results[f"{kind}, n = {n}"] = {"runs": runs, "found": detected, "median": median, "any test": best}
            if not kind.startswith("on average"):
                chance = float(binom.cdf(detected, runs, 0.95))
                checks.append(
                    Check(f"slow change, {kind}, n = {n:,}: found", round(detected / runs, 4),
                          f"95%: chance of fewer > {FAILURE:g}", chance > FAILURE)
                )  # fmt: skip
    console.print(table)
    return results, checks


def _by_any_test(law: FalseAlarmLaw, draws: int = 100_000) -> float:
    """The most of these runs that any test can find by then whose false alerts have probability DELTA at most.

    That is the test of Neyman and Pearson on all 25,000 responses, which knows when the change comes and how large it
    is.
    """
    random, (a, b) = np.random.default_rng(53), (law.n + 1 - law.k, law.k)
    calm, later, rate = 5_000, 20_000, 1.3 * ALPHA

    def log_ratio(before: Rows, after: Rows) -> Rows:
        """Of the counts' probability with that change over that without one, up to a constant."""
        at_first = betaln(a + before, b + calm - before)
        all_along = betaln(a + before + after, b + calm + later - before - after)
        return np.asarray(at_first + after * log(rate) + (later - after) * log(1 - rate) - all_along)

    rates = random.beta(a, b, size=(2, draws))
    null = log_ratio(random.binomial(calm, rates[0]), random.binomial(later, rates[0]))
    changed = log_ratio(random.binomial(calm, rates[1]), random.binomial(later, rate, size=draws))
    return float((changed >= np.quantile(null, 1 - DELTA)).mean())


def _slow_delay(law: FalseAlarmLaw, random: np.random.Generator) -> float:
    watch, step = Watch(promise_test(law)), 100
    calm_rate = random.beta(law.n + 1 - law.k, law.k)
    for count in random.binomial(step, calm_rate, size=5_000 // step):
        watch.add((int(count), step - int(count)))
    for at, count in enumerate(random.binomial(step, 1.3 * ALPHA, size=20_000 // step)):
        watch.add((int(count), step - int(count)))
        if watch.log_evidence() >= log(1 / DELTA):
            return (at + 1) * step
    return float("inf")


def everything(pairs: Iterable[Pair], runs: int) -> tuple[dict[str, Any], list[Check]]:
    """All of it; `runs` are those of each planted change on each pair."""
    every = list(pairs)
    quiet, checks = calm(every, 4 * runs, 5_000)
    named, more = planted(every, runs)
    gradual, further = slow(300 if runs > 1 else 100)
    return {"calm": quiet, "planted": named, "slow": gradual}, [*checks, *more, *further]
