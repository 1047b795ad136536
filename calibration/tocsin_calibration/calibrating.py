"""From scores of safe traffic to a promise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.dividing import (
    MIN_REFERENCE_SESSIONS,
    REFERENCE_SHARE,
    or_promise_less,
    reference_rows,
    require_carrying,
    require_enough,
    scales_of,
    watched,
    with_reference,
)
from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.promise import Promise
from tocsin_calibration.sessions.bands import Band
from tocsin_calibration.sessions.rule import SessionRule
from tocsin_calibration.sweeps import Held, alphas_of, calibrate_in_sweeps, checked, combination_of
from tocsin_calibration.thresholds.joint import Float64, JointScore, needed_of
from tocsin_calibration.thresholds.smoothing import seed_of
from tocsin_calibration.thresholds.terms import Guarantee

DEFAULT_ALPHAS: Mapping[str, float] = {"warning": 0.05, "critical": 0.01}


def calibrate(
    scores: NDArray[np.floating],
    alpha: float | Mapping[str, float] = DEFAULT_ALPHAS,
    *,
    rule: str = "any",
    detectors: Sequence[str] = (),
    seed: int = 0,
    confidence: float | None = None,
    on_average: bool = False,
    contaminated: float = 0.0,
    groups: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
    normalised: bool = False,
    failures: NDArray[np.floating] | None = None,
    scales: NDArray[np.floating] | None = None,
) -> Promise:
    """A promise from detectors' scores (n, d) of safe responses that played no part in fitting.

    `alpha` is one level, or a level for each severity. `rule`: `any` alarms when some detector stands out, `all` when
    every one does, `2 of 3` when at least two do, `learnt` when a weighted sum does, its weights learnt from the scale
    set and from `failures` (m, d) where there are some. A third of the rows, drawn by `seed`, are the scale set, which
    sets the detectors' scales; the rest carry the promise.

    `confidence`: promise alpha for this very calibration set with that confidence; None: with 0.95, each alpha that has
    rows enough, and the others on average over such sets, as their sentences say. `on_average`: promise all of them so,
    as weighted promises and those on contaminated calibration always are. `contaminated`: keep alpha although up to
    that share of the rows is bad. `groups` (n,): a promise for each group with rows enough, and one for the rows of all
    other groups together where they are enough. `weights` (n,): likelihood ratios to the traffic expected, up to a
    factor; `normalised`: on their own scale, so that what they lack to an average of 1 was not recorded, and counts
    against the threshold. `scales` (s, d): scores of responses that are not among these, such as those that the
    detectors were fitted on; they set the scales, and all n rows carry the promise. Scales are a fixed function of
    them, so that the promise and its laws are the same as ever, whatever they are like.

    Raises CalibrationError when the scores are too few for an alpha (saying how many are needed), not finite, or
    of the wrong shape.

        >>> import numpy as np
        >>> scores = np.random.default_rng(0).normal(size=(3_000, 2))  # of safe responses, by two detectors
        >>> promise = calibrate(scores, {"warning": 0.05})
        >>> promise.judge(np.array([[0.0, 0.0], [9.0, 0.0]])).severities
        [None, 'warning']
    """
    alphas, values = alphas_of(alpha), checked(scores)
    terms = Guarantee.chosen(confidence, on_average or (weights is not None and confidence is None), contaminated)
    _check_columns(len(values), groups, weights, terms, has_confidence=confidence is not None)
    if groups is None and weights is None and scales is None:
        return calibrate_in_sweeps(
            Held(values),
            alphas,
            rule=rule,
            detectors=detectors,
            seed=seed,
            confidence=confidence,
            on_average=on_average,
            contaminated=contaminated,
            failures=failures,
        )
    needed_of(rule, values.shape[1])
    scale_set, rows, needed = _scale_set_and_rows(values, scales, alphas, terms, seed)
    scale_scores = np.sort(scale_set, axis=0)
    combination = combination_of(rule, scale_scores, scale_set, failures)
    nonconformity = JointScore(scale_scores, rule, combination)(values[rows])[0]
    by_group, pooled, others = _divided(nonconformity, None if groups is None else [groups[i] for i in rows], needed)
    return Promise(
        scale_scores if scales is None else watched(values),
        nonconformity,
        alphas,
        rule,
        detectors,
        terms=terms,
        weights=None if weights is None else np.asarray(weights, np.float64)[rows],
        groups=by_group,
        pooled=pooled,
        others=others,
        combination=combination,
        normalised=normalised,
        scales=None if scales is None else scale_scores,
        auxiliary=seed_of(np.sort(nonconformity).tobytes(), seed),
    )


def _check_columns(
    responses: int,
    groups: Sequence[str] | None,
    weights: ArrayLike | None,
    terms: Guarantee,
    *,
    has_confidence: bool,
) -> None:
    """Raises CalibrationError where groups or weights fit neither the scores nor what is to be promised."""
    if weights is not None and (groups is not None or has_confidence or terms.contaminated):
        raise CalibrationError("a weighted promise cannot also be one for groups, with confidence or for contamination")
    if groups is not None and terms.contaminated:
        raise CalibrationError(
            "a promise a group cannot be kept on contaminated calibration: all that is bad may be of one"
        )
    for name, column in (("groups", groups), ("weights", weights)):
        if column is not None and len(np.asarray(column)) != responses:
            raise CalibrationError(f"there are {len(np.asarray(column))} {name} for {responses} responses")


def _scale_set_and_rows(
    values: Float64,
    scales: NDArray[np.floating] | None,
    alphas: Mapping[str, float],
    terms: Guarantee,
    seed: int,
) -> tuple[Float64, NDArray[np.intp], int]:
    """The scores (s, d) that set the detectors' scales, the rows of `values` that carry the promise, and how many it
    needs. Without `scales`, a third of the rows are the scale set. Raises CalibrationError where rows are too few.
    """
    if scales is not None:
        needed = require_carrying(len(values), alphas, terms, "responses")
        return scales_of(scales, values.shape[1]), np.arange(len(values)), needed
    needed = require_enough(len(values), alphas, terms)
    scale_rows = reference_rows(len(values), seed)
    rows = np.setdiff1d(np.arange(len(values)), scale_rows, assume_unique=True)
    return values[scale_rows], rows, needed


def calibrate_sessions(
    sessions: Iterable[NDArray[np.floating]],
    alpha: float | Mapping[str, float] = DEFAULT_ALPHAS,
    *,
    session: SessionRule = SessionRule(),
    rule: str = "any",
    detectors: Sequence[str] = (),
    seed: int = 0,
    confidence: float | None = None,
    on_average: bool = False,
    failures: NDArray[np.floating] | None = None,
    scales: Iterable[NDArray[np.floating]] | None = None,
) -> Promise:
    """A promise for whole sessions, from detectors' scores (T_i, d) of each safe session in the order of its steps.

    A third of the sessions set the detectors' scales and, in the style `band`, the usual course; the rest carry the
    promise, each session as one. Stretches of one session stay together. `failures` (m, d): responses of failed
    sessions, for the rule `learnt`. Several stretches of one session are promised for on average, unless a confidence
    is named. `scales`: scores (T_i, d) of other sessions, which set scales and course in the place of that third, so
    that every one of `sessions` carries the promise. Raises CalibrationError as `calibrate` does; what must be many
    enough are sessions.

        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> sessions = [rng.normal(size=(20, 1)) for _ in range(400)]
        >>> promise = calibrate_sessions(sessions, {"critical": 0.05})
        >>> promise.alphas
        {'critical': 0.05}
    """
    alphas, terms = alphas_of(alpha), Guarantee.chosen(confidence, on_average)
    sound = [checked(scores) for scores in sessions]
    if empty := sum(not len(scores) for scores in sound):
        raise CalibrationError(f"{empty} sessions have no responses; leave them out")
    cut = session.cut(sound)
    if session.every is not None and not cut:
        raise CalibrationError(f"no session has {session.every} steps; choose shorter stretches")
    carrying = max(terms.required_size(a) for a in alphas.values())
    owners = np.repeat(np.arange(len(sound)), [len(session.cut([session_rows])) for session_rows in sound])
    part_a, part_b = _divided_by_session(owners, seed) if scales is None else (owners[:0], np.arange(len(owners)))
    if scales is not None:
        require_carrying(len(part_b), alphas, terms, "sessions")
    elif len(part_b) < carrying:
        raise CalibrationError(
            f"{len(cut)} safe sessions cannot keep alpha = {min(alphas.values()):g}: "
            f"{with_reference(carrying, MIN_REFERENCE_SESSIONS)} are needed ({carrying} carry the promise, one session "
            f"one score); record more, {or_promise_less(alphas)}"
        )
    rest = [cut[i] for i in part_b]
    needed_of(rule, rest[0].shape[1])
    if scales is None:
        first = [cut[i] for i in part_a]
        rows = np.concatenate(first)
    else:
        first = session.cut([checked(scores) for scores in scales]) or [rest[0][:0]]
        rows = scales_of(np.concatenate(first), rest[0].shape[1])
    reference = np.sort(rows, axis=0)
    combination = combination_of(rule, reference, rows, failures)
    score = JointScore(reference, rule, combination)
    if session.style == "band":
        courses = [session.window.rolling(score(session_rows)[0]) for session_rows in first]
        session = SessionRule(session.window, "band", session.every, Band.of(courses, max(alphas.values())))
    courses = [session.course(score(session_rows)[0]) for session_rows in rest]
    steps = {}
    if session.style == "step":
        longest = max(map(len, courses))
        reached = {str(t + 1): np.array([c[t] for c in courses if len(c) > t]) for t in range(longest)}
        steps = {step: values for step, values in reached.items() if len(values) >= carrying}
    alike = len(np.unique(owners[part_b])) < len(part_b)
    if alike and terms.else_average:  # stretches of one session are no independent draws
        terms = Guarantee()
    return Promise(
        reference if scales is None else watched(np.concatenate(rest)),
        np.array([course.max() for course in courses]),
        alphas,
        rule,
        detectors,
        terms=terms,
        groups=steps,
        combination=combination,
        sessions=session,
        scales=None if scales is None else reference,
        clusters=owners[part_b] if alike else None,
    )


def _divided_by_session(owners: NDArray[np.intp], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The stretches of the scale set and of the calibration set: whole sessions to either, those of a single session
    one by one.
    """
    sessions = np.unique(owners)
    one_each = len(sessions) == len(owners)
    units = np.arange(len(owners)) if one_each or len(sessions) == 1 else owners
    order = np.random.default_rng(seed).permutation(np.unique(units))
    least = MIN_REFERENCE_SESSIONS if units is not owners else 1
    first = order[: max(least, round(len(order) * REFERENCE_SHARE))]
    if units is not owners:
        return first, order[len(first) :]
    inside = np.isin(owners, first)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _divided(
    nonconformity: Float64, groups: Sequence[str] | None, carrying: int
) -> tuple[dict[str, Float64], list[str], Float64 | None]:
    """Each group's scores where they can carry the promise, the groups that cannot, and their scores where all of them
    together can.
    """
    if groups is None:
        return {}, [], None
    names = np.asarray([str(group) for group in groups])
    by_group = {str(name): nonconformity[names == name] for name in np.unique(names)}
    large = {name: scores for name, scores in by_group.items() if len(scores) >= carrying}
    small = [name for name in by_group if name not in large]
    others = nonconformity[np.isin(names, small)]
    return large, small, others if large and len(others) >= carrying else None
