"""Few calibration sessions: what it costs that a third of them set the detectors' scales, and what to do instead.

Responses of real models (each a session of one step), and rollouts of robots where `make fiper` keeps them. Calibration
and fresh sessions are drawn from the same ones at random, one like the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.judge import FAILURE, Judge
from benchmarks.report import Check, console
from benchmarks.shifts import embedded_pairs
from tocsin_calibration import CalibrationError, FalseAlarmLaw, Promise, SessionRule, Window, calibrate_sessions
from tocsin_calibration.thresholds.joint import JointScore
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

ALPHA, SIZES, FRESH, FOLDS = 0.05, (20, 30, 40, 60), 50, 5
ROLLOUTS = "-v3"  # ends the names of robots' tasks
FITTED = 300  # responses that detectors are fitted on
THIRD, APART, CROSS = "a third sets the scales", "--scales: what was fitted on", f"scales are crossed, {FOLDS} folds"
Session = NDArray[np.float64]
Scores = NDArray[np.float32]


class Source(NamedTuple):
    """Scores (T_i, d) of sessions that detectors were fitted on, of other safe ones, and of those that fail."""

    name: str
    fitted: list[Session]
    safe: list[Session]
    failing: list[Session]
    session: SessionRule


class Alarms(NamedTuple):
    """Whether sessions alarm: fresh safe ones, and failing ones; the law of the first, if one is known."""

    safe: NDArray[np.bool_]
    failing: NDArray[np.bool_]
    law: FalseAlarmLaw | None


def everything(runs: int, folder: Path) -> tuple[dict[str, Any], list[Check]]:
    """Every way on every source, `runs` calibration sets of each size."""
    judge, results = Judge(), dict[str, Any]()
    table = Table(
        "calibration sessions", "way", "refused", "alarms, safe", "failures caught", title=f"Few sessions, {ALPHA:.0%}"
    )
    sources = [*_responses(), *_rollouts(folder)]
    rows = [row for source in sources for row in _measured(source, runs, judge)]
    for n in SIZES:
        for way in (THIRD, APART, CROSS):
            these = [row for row in rows if row["n"] == n and row["way"] == way]
            means = {key: float(np.mean([row[key] for row in these])) for key in ("refused", "safe", "caught")}
            table.add_row(f"{n}", way, *(f"{means[key]:.1%}" for key in ("refused", "safe", "caught")))
            results[f"{way}, n = {n}"] = means
    console.print(table)
    _show_rollouts(rows)
    judge.judge_pools()
    checks = []
    for name, finding in judge.findings.items():
        checks.append(
            Check(f"{name}: least tail of its law", min(finding.tails), f"> {FAILURE / _tails(judge):.2g}",
                  judge.holds(name))
        )  # fmt: skip
    caught = {
        way: float(np.mean([results[f"{way}, n = {n}"]["caught"] for n in SIZES])) for way in (THIRD, APART, CROSS)
    }
    for way in (THIRD, CROSS):
        gain = caught[APART] - caught[way]
        checks.append(
            Check(f"failures caught more than where {way}, mean over sizes", round(gain, 4), ">= 0", gain >= 0)
        )
    return {"sources": [source.name for source in sources], "mean": results, "by source": rows}, checks


def _show_rollouts(rows: list[dict[str, Any]]) -> None:
    """The same of robots' rollouts alone, task by task."""
    table = Table(
        "rollouts", "calibration sessions", "way", "alarms, safe", "failures caught", title="Robots' rollouts"
    )
    for row in rows:
        if row["source"].endswith(ROLLOUTS):
            shares = ("refused", "") if row["refused"] == 1 else (f"{row['safe']:.1%}", f"{row['caught']:.1%}")
            table.add_row(row["source"], f"{row['n']}", row["way"], *shares)
    if table.row_count:
        console.print(table)


def _tails(judge: Judge) -> int:
    return sum(len(finding.tails) for finding in judge.findings.values())


def _responses() -> Iterator[Source]:
    for name, safe, shifted in embedded_pairs():
        if safe.rows < FITTED + 200:
            continue
        fitted = safe.take(np.arange(FITTED))
        of_logits = ("energy",) if "logits" in safe.names() else ()
        scorer = compile([parse(spec) for spec in (*of_logits, "mahalanobis", "knn")], fit_on=fitted)
        others = safe.take(np.arange(FITTED, safe.rows))
        first, usual, failing = (_single(scorer(part)) for part in (fitted, others, shifted))
        yield Source(name, first, usual, failing, SessionRule())


def _single(scores: Scores) -> list[Session]:
    return list(scores.astype(np.float64)[:, None, :])


def _rollouts(folder: Path) -> Iterator[Source]:
    paths = sorted(path for path in folder.glob(f"*{ROLLOUTS}.npz") if path.name.count(".") == 1)
    if not paths:
        console.print(f"no rollouts in {folder}: `make fiper` makes them; responses alone are measured")
        return
    import benchmarks.fiper.scores as fiper
    from benchmarks.fiper import __file__ as _  # noqa: F401 (puts the scene on the path)

    for path in paths:
        rollouts = fiper.read(path)
        safe = [rollout for rollout in rollouts if rollout.kind == "usual" and rollout.success]
        fitted, others = safe[: fiper.FITTED], safe[fiper.FITTED :]
        failing = [rollout for rollout in rollouts if not rollout.success]
        scorer = compile([parse("rnd"), parse("mahalanobis"), parse("ace")], fit_on=_signals(fitted))
        first, usual, strange = ([_scored(scorer, rollout) for rollout in part] for part in (fitted, others, failing))
        yield Source(path.stem, first, usual, strange, SessionRule(Window(3)))


def _signals(rollouts: Sequence[Any]) -> Observations:
    return Observations(
        {
            "embedding": np.concatenate([rollout.embeddings for rollout in rollouts]),
            "actions": np.concatenate([rollout.chunks for rollout in rollouts]).astype(np.float32),
        }
    )


def _scored(scorer: Any, rollout: Any) -> Session:
    return np.asarray(scorer(_signals([rollout])), np.float64)


def _measured(source: Source, runs: int, judge: Judge) -> list[dict[str, Any]]:
    rows = []
    for n in SIZES:
        outcomes: dict[str, list[Alarms | None]] = {THIRD: [], APART: [], CROSS: []}
        for run in range(runs):
            random = np.random.default_rng([61, n, run])
            drawn = random.integers(len(source.safe), size=n + FRESH)
            calibrating, fresh = ([source.safe[at] for at in part] for part in (drawn[:n], drawn[n:]))
            failing = [source.failing[at] for at in random.integers(len(source.failing), size=FRESH)]
            outcomes[THIRD].append(_promised(source, calibrating, fresh, failing, run, apart=False))
            outcomes[APART].append(_promised(source, calibrating, fresh, failing, run, apart=True))
            outcomes[CROSS].append(_crossed(source, calibrating, fresh, failing))
        for way, every in outcomes.items():
            promised = [alarms for alarms in every if alarms is not None]
            laws = [(alarms.law, FRESH) for alarms in promised if alarms.law is not None]
            count = sum(int(alarms.safe.sum()) for alarms in promised)
            if way != CROSS:
                judge.counts(f"{way}, n = {n}", ALPHA, laws, count, exact=False)
            caught = sum(int(alarms.failing.sum()) for alarms in promised)
            rows.append(
                {"source": source.name, "n": n, "way": way, "refused": 1 - len(promised) / runs,
                 "safe": count / (runs * FRESH), "caught": caught / (runs * FRESH)}
            )  # fmt: skip
    return rows


def _promised(
    source: Source,
    calibrating: Sequence[Session],
    fresh: Sequence[Session],
    failing: Sequence[Session],
    seed: int,
    *,
    apart: bool,
) -> Alarms | None:
    try:
        promise: Promise = calibrate_sessions(
            calibrating, {"alarm": ALPHA}, session=source.session, seed=seed, on_average=True,
            scales=source.fitted if apart else None,
        )  # fmt: skip
    except CalibrationError:
        return None
    limit = promise.thresholds["alarm"]
    safe, failed = (_largest(source.session, promise.joint, part) > limit for part in (fresh, failing))
    return Alarms(safe, failed, promise.laws["alarm"])


def _crossed(
    source: Source, calibrating: Sequence[Session], fresh: Sequence[Session], failing: Sequence[Session]
) -> Alarms:
    """Each fold is ranked on scales of the others (Vovk 2015): at most about 2 alpha of safe sessions alarm."""
    above = [np.ones(len(part)) for part in (fresh, failing)]
    for fold in range(FOLDS):
        others = [session for at, session in enumerate(calibrating) if at % FOLDS != fold]
        joint = _joint(JointScore(np.concatenate(others), "any"))
        ranked = np.sort(_largest(source.session, joint, calibrating[fold::FOLDS]))
        for at, part in enumerate((fresh, failing)):
            largest = _largest(source.session, joint, part)
            above[at] += len(ranked) - np.searchsorted(ranked, largest, side="left")
    limit = ALPHA * (len(calibrating) + 1) + 1e-9
    return Alarms(above[0] <= limit, above[1] <= limit, None)


def _joint(score: JointScore) -> Callable[[Session], Session]:
    return lambda rows: score(rows)[0]


def _largest(
    rule: SessionRule, joint: Callable[[Session], Session], sessions: Sequence[Session]
) -> NDArray[np.float64]:
    scores = joint(np.concatenate(sessions))
    ends = np.cumsum([len(session) for session in sessions])[:-1]
    return np.array([rule.course(part).max() for part in np.split(scores, ends)])
