"""Nominal against realised: every promise about responses, on blocks of held-out rows, over many random splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.guarantees.pairs import Course, Pair, Rows
from benchmarks.judge import Judge
from tocsin_calibration import (
    FalseAlarmLaw,
    Promise,
    SessionRule,
    Window,
    calibrate,
    calibrate_sessions,
    conformal_risk_control,
    conformal_selection,
    label_shift_weights,
    mean_bound,
    optimised_selection,
    order_statistic_bound,
    smoothed_pvalues,
    uniforms,
)
from tocsin_calibration.thresholds.split import rank

ALPHA = 0.1
CALIBRATION, FRESH = 120, 40  # rows of a block
MOST_BLOCKS = 40  # of one split
Block = tuple[np.ndarray, np.ndarray]  # indices: calibration, fresh
Laws = list[tuple[FalseAlarmLaw, int]]


def responses(judge: Judge, planted: Judge, pair: Pair, split: int, pool: int | None) -> None:
    """Judge every promise about single responses on one random split of a pair, its counts pooled where `pool` is
    told.
    """
    rng = np.random.default_rng([split, len(pair.scores)])
    blocks = list(_blocks(len(pair.scores), CALIBRATION, FRESH, rng))
    if not blocks:
        return
    for name, more in (
        ("split, any", {"on_average": True}),
        ("split, all", {"rule": "all", "on_average": True}),
        ("split, 2 of 3", {"rule": "2 of 3", "on_average": True}),
        ("split, learnt", {"rule": "learnt", "on_average": True}),
        ("by default, confidence 0.95", {}),
        ("PAC, confidence 0.9", {"confidence": 0.9}),
    ):
        _alarms(judge, name, pair.scores, blocks, lambda s, _, m=more: calibrate(s, ALPHA, **m), pool)  # type: ignore[misc]
    _groups(judge, pair, blocks)
    _contaminated(judge, pair, blocks, rng)
    _weighted(judge, pair, blocks, rng)
    _single(judge, pair, blocks, split)
    _batches(judge, pair, blocks)
    _selection(judge, pair, blocks, rng)
    _mistakes(planted, pair, blocks, pool)


def sessions(judge: Judge, course: Course, split: int) -> None:
    """Judge every promise about sessions on one random split."""
    rng = np.random.default_rng([split, len(course.sessions)])
    for name, rule in (
        ("sessions, max", SessionRule(Window(3))),
        ("sessions, band", SessionRule(Window(3), "band")),
        ("sessions, step", SessionRule(Window(3), "step")),
        ("sessions, stretches", SessionRule(Window(2), every=5)),
    ):
        alarms, laws = 0, []
        for calibration, test in _blocks(len(course.sessions), 60, 20, rng):
            stretch = rule.every
            calibration_series = [
                course.sessions[i] if stretch is None else course.sessions[i][:stretch] for i in calibration
            ]
            test_series = [course.sessions[i] if stretch is None else course.sessions[i][:stretch] for i in test]
            promise = calibrate_sessions(calibration_series, ALPHA, session=rule, seed=split, on_average=True)
            law, step = promise.laws["alarm"], None
            if rule.style == "step":
                step = min(4, *(len(scores) - 1 for scores in test_series))
                law = promise.groups[str(step + 1)].laws["alarm"]
            for scores in test_series:
                progress = promise.sessions.start()  # type: ignore[union-attr]
                severities = promise.judge(scores, sessions=[progress] * len(scores)).severities
                alarms += any(severities) if step is None else severities[step] is not None
            laws.append((law, len(test_series)))
        judge.counts(name, ALPHA, laws, alarms)


def _blocks(rows: int, calibration: int, fresh: int, rng: np.random.Generator) -> Iterator[Block]:
    order, size = rng.permutation(rows), calibration + fresh
    for at in range(0, min(rows // size, MOST_BLOCKS) * size, size):
        yield order[at : at + calibration], order[at + calibration : at + size]


def _alarms(
    judge: Judge,
    name: str,
    scores: Rows,
    blocks: list[Block],
    make: Callable[[Rows, np.ndarray], Promise],
    pool: int | None,
) -> None:
    alarms, laws, tied = 0, [], False
    for calibration, fresh in blocks:
        promise = make(scores[calibration], calibration)
        alarms += sum(s is not None for s in promise.judge(scores[fresh]).severities)
        laws.append((promise.laws["alarm"], len(fresh)))
        tied |= _tied(promise)
    judge.counts(name, ALPHA, laws, alarms, exact=not tied, pool=pool)


def _tied(promise: Promise) -> bool:
    """Whether the threshold is one of several equal scores, so that fewer alarms than alpha are no surprise."""
    return bool((promise.nonconformity.scores == promise.thresholds["alarm"]).sum() > 1)


def _groups(judge: Judge, pair: Pair, blocks: list[Block]) -> None:
    names = np.where(pair.said <= np.median(pair.said), "low", "high")
    alarms, laws, tied = 0, [], False
    for calibration, fresh in blocks:
        promise = calibrate(pair.scores[calibration], ALPHA, groups=names[calibration].tolist(), on_average=True)
        severities = promise.judge(pair.scores[fresh], names[fresh].tolist()).severities
        for name, limits in promise.groups.items():
            of_group = names[fresh] == name
            alarms += sum(s is not None for s, mine in zip(severities, of_group, strict=True) if mine)
            laws.append((limits.laws["alarm"], int(of_group.sum())))
            tied |= bool((limits.scores == limits.thresholds["alarm"]).sum() > 1)
    judge.counts("groups", ALPHA, [law for law in laws if law[1]], alarms, exact=not tied)


def _contaminated(judge: Judge, pair: Pair, blocks: list[Block], rng: np.random.Generator) -> None:
    """5% of the calibration rows are bad and have the lowest scores, the worst case for the threshold."""
    lowest = pair.scores.min(axis=0) - 1

    def make(scores: Rows, calibration: np.ndarray) -> Promise:
        spoilt = scores.copy()
        spoilt[rng.choice(len(calibration), round(0.05 * len(calibration)), replace=False)] = lowest - rng.random(
            (1, 3)
        )
        return calibrate(spoilt, ALPHA, contaminated=0.05)

    _alarms_at_most(judge, "contaminated, 5% bad", pair.scores, blocks, make)


def _alarms_at_most(
    judge: Judge, name: str, scores: Rows, blocks: list[Block], make: Callable[[Rows, np.ndarray], Promise]
) -> None:
    alarms, laws = 0, []
    for calibration, fresh in blocks:
        promise = make(scores[calibration], calibration)
        alarms += sum(s is not None for s in promise.judge(scores[fresh]).severities)
        laws.append((promise.laws["alarm"], len(fresh)))
    judge.counts(name, ALPHA, laws, alarms, exact=False)


def _weighted(judge: Judge, pair: Pair, blocks: list[Block], rng: np.random.Generator) -> None:
    """Traffic in which rows come as much more often as a known ratio says, by an input and by the class."""
    tilt = np.exp(np.clip(pair.inputs[:, 0], -1, 1) * 0.7)
    shares, by_class = [], []
    classes = np.unique(pair.labels)
    labels = np.searchsorted(classes, pair.labels)
    for calibration, fresh in blocks:
        drawn = fresh[rng.random(len(fresh)) < tilt[fresh] / tilt.max()]
        promise = calibrate(pair.scores[calibration], ALPHA, weights=tilt[calibration])
        if len(drawn):
            shares.append(float(np.mean([s is not None for s in promise.judge(pair.scores[drawn]).severities])))
        counts = np.bincount(labels[calibration], minlength=len(classes))
        present = np.flatnonzero(counts >= 5)
        if len(present) < 2:
            continue
        ratio = np.zeros(len(classes))
        ratio[present] = np.linspace(0.5, 1, len(present))
        # The shares expected are the pool's times the ratio; weights follow from the calibration's own counts.
        pool = np.bincount(labels, minlength=len(classes)) * ratio
        inside = calibration[np.isin(labels[calibration], present)]
        moved = fresh[rng.random(len(fresh)) < ratio[labels[fresh]]]
        if len(moved) and len(inside) > 80:
            expected = pool / pool.sum()
            promise = calibrate(pair.scores[inside], ALPHA, weights=label_shift_weights(labels[inside], expected))
            by_class.append(float(np.mean([s is not None for s in promise.judge(pair.scores[moved]).severities])))
    judge.mean("weighted, covariates", ALPHA, shares)
    judge.mean("weighted, labels", ALPHA, by_class)


def _single(judge: Judge, pair: Pair, blocks: list[Block], split: int) -> None:
    """Smoothed p-values of one fresh row a block: uniform, ties and all."""
    below = 0
    for number, (rows_before, fresh) in enumerate(blocks):
        calibration = np.sort(pair.scores[rows_before, 0])
        u = uniforms([f"{pair.name} {split} {number}"])
        below += bool(smoothed_pvalues(calibration, pair.scores[fresh[:1], 0], u)[0] <= ALPHA)
    judge.binomial("smoothed p-values", ALPHA, below, len(blocks))


def _batches(judge: Judge, pair: Pair, blocks: list[Block]) -> None:
    law = FalseAlarmLaw.at(CALIBRATION, ALPHA)
    most = law.at_most(FRESH, 0.95)
    above = beyond = averaged = 0
    for calibration, fresh in blocks:
        scores = pair.scores[calibration, 2]
        limit = np.sort(scores)[law.k - 1]
        above += int((pair.scores[fresh, 2] > limit).sum()) > most
        beyond += bool(np.median(pair.scores[fresh[:9], 2]) > order_statistic_bound(scores, 9, 5, ALPHA))
        unsure = pair.scores[:, 1]
        averaged += bool(unsure[fresh[:5]].mean() > mean_bound(unsure[calibration], 5, ALPHA, 1.0))
    judge.binomial("batch, mean", ALPHA, averaged, len(blocks), exact=False)
    judge.binomial("batch, at most m alarm", 0.05, above, len(blocks), exact=False)
    judge.binomial("batch, median", ALPHA, beyond, len(blocks), exact=False)


def _selection(judge: Judge, pair: Pair, blocks: list[Block], rng: np.random.Generator) -> None:
    q, risk = 0.2, 0.05
    by_one, by_best, wrong = [], [], []
    for calibration, fresh in blocks:
        good = pair.correct[fresh]
        selected = conformal_selection(
            pair.scores[calibration, 0], pair.correct[calibration], pair.scores[fresh, 0], q, rng.random(len(fresh))
        )
        by_one.append(float((selected & ~good).sum() / max(1, selected.sum())))
        best = optimised_selection(
            pair.scores[calibration], pair.correct[calibration], pair.scores[fresh], q, float(rng.random())
        )
        by_best.append(float((best & ~good).sum() / max(1, best.sum())))
        control = conformal_risk_control(pair.scores[calibration, 0], ~pair.correct[calibration], risk)
        limit = -np.inf if control.threshold is None else control.threshold
        wrong.append(float(((pair.scores[fresh, 0] <= limit) & ~good).mean()))
    judge.mean("selection, FDR", q, by_one)
    judge.mean("selection, OptCS", q, by_best)
    judge.mean("conformal risk control", risk, wrong)


def _mistakes(planted: Judge, pair: Pair, blocks: list[Block], pool: int | None) -> None:
    """Common mistakes, judged by the same law: the judge must detect them."""
    interpolated, joined = 0, {"any": 0, "all": 0}
    laws: Laws = []
    small: Laws = []
    n = 19
    for calibration, fresh in blocks:
        scores = pair.scores[calibration]
        interpolated += int((pair.scores[fresh, 2] > np.quantile(scores[:n, 2], 1 - ALPHA)).sum())
        small.append((FalseAlarmLaw(n, rank(n, ALPHA)), len(fresh)))
        limits = np.sort(scores, axis=0)[rank(len(calibration), ALPHA) - 1]
        above = pair.scores[fresh] > limits
        joined["any"] += int(above.any(axis=1).sum())
        joined["all"] += int(above.all(axis=1).sum())
        laws.append((FalseAlarmLaw.at(len(calibration), ALPHA), len(fresh)))
    planted.counts("interpolated quantile, n = 19", ALPHA, small, interpolated, pool=pool)
    planted.counts("separate thresholds, ORed", ALPHA, laws, joined["any"], pool=pool)
    planted.counts("separate thresholds, ANDed", ALPHA, laws, joined["all"], pool=pool)
