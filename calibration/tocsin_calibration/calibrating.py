"""From scores of safe traffic to a promise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.promise import Promise
from tocsin_calibration.sessions.bands import Band
from tocsin_calibration.sessions.rule import SessionRule
from tocsin_calibration.thresholds.contaminated import bad_among
from tocsin_calibration.thresholds.joint import LEARNT, Float64, JointScore, needed_of
from tocsin_calibration.thresholds.learnt import combination_weights
from tocsin_calibration.thresholds.limits import Terms

DEFAULT_ALPHAS: Mapping[str, float] = {"warning": 0.05, "critical": 0.01}
REFERENCE_SHARE = 1 / 3  # part A only sets the detectors' scales; part B carries the promise and gets the rest
MIN_REFERENCE = 20
MOST_BAD = 0.5  # of calibration; of more there is nothing to learn


def calibrate(
    scores: NDArray[np.floating],
    alpha: float | Mapping[str, float] = DEFAULT_ALPHAS,
    *,
    rule: str = "any",
    detectors: Sequence[str] = (),
    seed: int = 0,
    confidence: float | None = None,
    contaminated: float = 0.0,
    groups: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
    failures: NDArray[np.floating] | None = None,
) -> Promise:
    """A promise from detectors' scores (n, d) of safe responses that played no part in fitting.

    `alpha` is one level, or a level for each severity. `rule`: `any` alarms when some detector stands out, `all` when
    every one does, `2 of 3` when at least two do, `learnt` when a weighted sum does, its weights learnt from part A and
    from `failures` (m, d) where there are some. A third of the rows, drawn by `seed`, set the detectors' scales; the
    rest carry the promise.

    `confidence`: promise alpha for this very calibration set, with that confidence, instead of on average over such
    sets. `contaminated`: keep alpha although up to that share of the rows is bad. `groups` (n,): a promise for each
    group with rows enough; the others share the pooled one. `weights` (n,): likelihood ratios to the traffic expected.

    Raises CalibrationError when the scores are too few for an alpha (saying how many are needed), not finite, or
    of the wrong shape.
    """
    alphas = _alphas(alpha)
    values = _checked(scores)
    needed_of(rule, values.shape[1])
    part_a = _size_of_reference(len(values))
    terms = Terms(confidence, _contaminated(contaminated, len(values), len(values) - part_a))
    if weights is not None and (groups is not None or confidence is not None or contaminated):
        raise CalibrationError("a weighted promise cannot also be one for groups, with confidence or for contamination")
    if groups is not None and contaminated:
        raise CalibrationError(
            "a promise a group cannot be kept on contaminated calibration: all that is bad may be of one"
        )
    for name, column in (("groups", groups), ("weights", weights)):
        if column is not None and len(np.asarray(column)) != len(values):
            raise CalibrationError(f"there are {len(np.asarray(column))} {name} for {len(values)} responses")
    carrying = max(terms.required_size(a) for a in alphas.values())
    if len(values) - part_a < carrying:
        strictest = min(alphas.values())
        raise CalibrationError(
            f"{len(values)} calibration responses cannot keep alpha = {strictest:g}: "
            f"{responses_needed(strictest, Terms(confidence, contaminated))} are needed ({carrying} carry the promise, "
            f"the others set the detectors' scales); record more safe traffic, or choose a larger alpha"
        )
    order = np.random.default_rng(seed).permutation(len(values))
    a, b = order[:part_a], order[part_a:]
    reference = np.sort(values[a], axis=0)
    combination = _combination(rule, reference, values[a], failures)
    nonconformity = JointScore(reference, rule, combination)(values[b])[0]
    own, pooled = _divided(nonconformity, None if groups is None else [groups[i] for i in b], carrying)
    return Promise(
        reference,
        nonconformity,
        alphas,
        rule,
        detectors,
        terms=terms,
        weights=None if weights is None else np.asarray(weights, np.float64)[b],
        groups=own,
        pooled=pooled,
        combination=combination,
    )


def calibrate_sessions(
    sessions: Iterable[NDArray[np.floating]],
    alpha: float | Mapping[str, float] = DEFAULT_ALPHAS,
    *,
    session: SessionRule = SessionRule(),
    rule: str = "any",
    detectors: Sequence[str] = (),
    seed: int = 0,
    confidence: float | None = None,
    failures: NDArray[np.floating] | None = None,
) -> Promise:
    """A promise for whole sessions, from detectors' scores (T_i, d) of each safe session in the order of its steps.

    A third of the sessions set the detectors' scales and, in the style `band`, the usual course; the rest carry the
    promise, each session as one. `failures` (m, d): responses of failed sessions, for the rule `learnt`. Raises
    CalibrationError as `calibrate` does; what must be many enough are sessions.
    """
    alphas, terms = _alphas(alpha), Terms(confidence)
    checked = [_checked(scores) for scores in sessions]
    if empty := sum(not len(scores) for scores in checked):
        raise CalibrationError(f"{empty} sessions have no responses; leave them out")
    cut = session.cut(checked)
    if session.every is not None and not cut:
        raise CalibrationError(f"no session has {session.every} steps; choose shorter stretches")
    part_a = max(2, round(len(cut) * REFERENCE_SHARE))
    carrying = max(terms.required_size(a) for a in alphas.values())
    if len(cut) - part_a < carrying:
        raise CalibrationError(
            f"{len(cut)} safe sessions cannot keep alpha = {min(alphas.values()):g}: "
            f"{_with_reference(carrying, 2)} are needed ({carrying} carry the promise, one session one score); "
            f"record more, or choose a larger alpha"
        )
    order = np.random.default_rng(seed).permutation(len(cut))
    first, rest = [cut[i] for i in order[:part_a]], [cut[i] for i in order[part_a:]]
    rows = np.concatenate(first)
    needed_of(rule, rows.shape[1])
    reference = np.sort(rows, axis=0)
    combination = _combination(rule, reference, rows, failures)
    score = JointScore(reference, rule, combination)
    if session.style == "band":
        courses = [session.window.over(score(one)[0]) for one in first]
        session = SessionRule(session.window, "band", session.every, Band.of(courses, max(alphas.values())))
    courses = [session.course(score(one)[0]) for one in rest]
    steps = {}
    if session.style == "step":
        longest = max(map(len, courses))
        reached = {str(t + 1): np.array([c[t] for c in courses if len(c) > t]) for t in range(longest)}
        steps = {step: values for step, values in reached.items() if len(values) >= carrying}
    return Promise(
        reference,
        np.array([course.max() for course in courses]),
        alphas,
        rule,
        detectors,
        terms=terms,
        groups=steps,
        combination=combination,
        sessions=session,
    )


def responses_needed(alpha: float, terms: Terms = Terms()) -> int:
    """How many calibration responses `calibrate` needs for the level alpha."""
    n = _with_reference(terms.required_size(alpha), MIN_REFERENCE)
    while terms.contaminated and not _enough(n, alpha, terms):
        n += 1
    return n


def _enough(rows: int, alpha: float, terms: Terms) -> bool:
    carrying = rows - _size_of_reference(rows)
    return carrying >= Terms(None, _contaminated(terms.contaminated, rows, carrying)).required_size(alpha)


def _contaminated(share: float, rows: int, carrying: int) -> float:
    """The share of the rows that carry the promise that may be bad, when a share of all is: at worst all of them."""
    if not 0 <= share < MOST_BAD:
        raise CalibrationError(f"the share of bad calibration responses must lie in [0, {MOST_BAD:g}), not {share}")
    return bad_among(rows, share) / carrying if share and carrying > 0 else share


def _with_reference(carrying: int, least: int) -> int:
    n = carrying + least
    while n - max(least, round(n * REFERENCE_SHARE)) < carrying:
        n += 1
    return n


def _size_of_reference(rows: int) -> int:
    return max(MIN_REFERENCE, round(rows * REFERENCE_SHARE))


def _combination(rule: str, reference: Float64, safe: Float64, failures: NDArray[np.floating] | None) -> Float64 | None:
    if rule != LEARNT:
        return None
    scale = JointScore(reference, "any")
    bad = None if failures is None else scale.evidence(_checked(failures))
    return combination_weights(scale.evidence(safe), bad)


def _divided(
    nonconformity: Float64, groups: Sequence[str] | None, carrying: int
) -> tuple[dict[str, Float64], list[str]]:
    """Each group's scores where they can carry the promise, and the groups that cannot."""
    if groups is None:
        return {}, []
    names = np.asarray([str(group) for group in groups])
    own = {str(name): nonconformity[names == name] for name in np.unique(names)}
    return (
        {name: scores for name, scores in own.items() if len(scores) >= carrying},
        [name for name, scores in own.items() if len(scores) < carrying],
    )


def _alphas(alpha: float | Mapping[str, float]) -> dict[str, float]:
    alphas = dict(alpha) if isinstance(alpha, Mapping) else {"alarm": alpha}
    if not alphas:
        raise CalibrationError("there is no alpha to promise")
    return alphas


def _checked(scores: NDArray[np.floating]) -> Float64:
    values = np.asarray(scores, np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or not values.shape[1]:
        raise CalibrationError(f"scores must have the shape (responses, detectors), not {values.shape}")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise CalibrationError(
            f"{int((~finite).sum())} of {len(values)} calibration responses have a NaN or infinite score (the first "
            f"is row {int(np.argmin(finite))}); leave them out, or mend the model"
        )
    return values
