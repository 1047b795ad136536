"""A calibrated promise: what alarms, and the p-values that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.online.inputs import InputsReference
from tocsin_calibration.sessions.rule import Progress, SessionRule
from tocsin_calibration.thresholds.classes import Classes
from tocsin_calibration.thresholds.joint import Float64, JointScore
from tocsin_calibration.thresholds.limits import Limits
from tocsin_calibration.thresholds.native_scales import MOST_ROWS, lookup_of
from tocsin_calibration.thresholds.ordered import Ordered
from tocsin_calibration.thresholds.smoothing import seed_of
from tocsin_calibration.thresholds.terms import Guarantee
from tocsin_calibration.wording import sentence

OTHERS: Final = ""  # the group of responses in none that has a promise of its own
FEW: Final = 8  # up to here plain Python is quicker than numpy's calls
FEW_SCORES: Final = 16  # of all rows and detectors, likewise
MANY: Final = 1_024  # rows beyond which what is said of each detector stays in an array, which is leaner than lists


class Judged(NamedTuple):
    """What calibration says of a batch of n responses scored by d detectors."""

    pvalues: list[float]  # joint, n of them
    by_detector: list[list[float]] | Float64  # against the scales, n rows of d; of many rows an array, which is leaner
    severities: list[str | None]  # the gravest level whose threshold is exceeded, or None
    joint: list[float]  # nonconformity, n of them


class Promise:
    """At most alpha of the responses exchangeable with the calibration ones alarm, for each severity's alpha.

    `reference` (a, d) are the detectors' scores of the scale set, `nonconformity` (b,) the joint ones of the
    calibration set (see `thresholds.joint`); `alphas` maps severities to levels. `scales` (s, d): scores of other
    responses that set the detectors' scales; then all of calibration carries the promise, and `reference` holds its
    scores, by which single detectors are watched. `weights` (b,): the promise is for other traffic
    (`thresholds.weighted`). `groups`: further nonconformity scores by group, each with a promise of its own (Mondrian).
    `others`: those of all further groups' responses, which have one promise together; None where they are too few, and
    then they get the pooled thresholds and no promise, as the pooled one says nothing of a part of the traffic.
    `pooled` names those further groups that calibration saw. `combination` (d,): weights of the rule `learnt`.
    `sessions`: responses belong together, and `nonconformity` holds one score a session. `auxiliary`: the seed of the
    numbers that break the ties of calibration scores where they are watched, drawn once; None derives it from the
    scores. `clusters` (b,): the session that each stretch comes from, where sessions have several. `inputs`:
    calibration's inputs, where changes of inputs are watched. `classes`: what in a response names its group, where
    responses do so themselves. `fits_tails`: see `LogPValueScale`; False where bundles were calibrated before it was
    so. Made by `calibrate`, or read from a bundle.
    """

    def __init__(
        self,
        reference: NDArray[np.floating],
        nonconformity: NDArray[np.floating] | Ordered,
        alphas: Mapping[str, float],
        rule: str,
        detectors: Sequence[str] = (),
        *,
        terms: Guarantee = Guarantee(),
        weights: ArrayLike | None = None,
        groups: Mapping[str, NDArray[np.floating]] | None = None,
        pooled: Sequence[str] = (),
        others: NDArray[np.floating] | None = None,
        combination: Sequence[float] | Float64 | None = None,
        sessions: SessionRule | None = None,
        auxiliary: int | None = None,
        clusters: ArrayLike | None = None,
        normalised: bool = False,
        scales: NDArray[np.floating] | None = None,
        inputs: InputsReference | None = None,
        classes: Classes | None = None,
        fits_tails: bool = True,
    ) -> None:
        self.reference = np.asarray(reference, np.float64)
        self.rule = rule
        self.detectors = tuple(detectors) or tuple(f"detector {j}" for j in range(self.reference.shape[1]))
        self.alphas = dict(sorted(alphas.items(), key=lambda pair: pair[1]))  # gravest first
        self.terms = terms
        self.combination = None if combination is None else np.asarray(combination, np.float64)
        self.sessions = sessions
        self.normalised = normalised  # whether weights are likelihood ratios on their own scale
        self.limits = Limits(nonconformity, self.alphas, terms, weights, clusters, normalised=normalised)
        self.groups = {name: Limits(scores, self.alphas, terms) for name, scores in (groups or {}).items()}
        self.pooled = tuple(pooled)
        self.others = None if others is None else Limits(others, self.alphas, terms)
        # What judges a row, by its group: taken apart, as rows of many groups find little in a processor's cache.
        self._by_group = {name: (of.pvalue, of.min_threshold, of) for name, of in self.groups.items()}
        self._by_no_group = self.remaining.pvalue, self.remaining.min_threshold, self.remaining
        self.n, self.laws, self.thresholds = self.limits.n, self.limits.laws, self.limits.thresholds
        self.nonconformity = self.limits.ordered
        self.auxiliary = seed_of(self.nonconformity.scores.tobytes()) if auxiliary is None else auxiliary
        self.inputs, self.classes = inputs, classes
        self.scales = None if scales is None else np.asarray(scales, np.float64)
        self.fits_tails = fits_tails
        scale_set = self.reference if self.scales is None else self.scales
        self._score = JointScore(scale_set, rule, self.combination, fits_tails=fits_tails)
        self._lookup = lookup_of(self._score)

    @property
    def unit(self) -> str:
        """What is promised for: responses, sessions, or stretches of one."""
        if self.sessions is None:
            return "responses"
        if self.sessions.every is not None:
            return f"stretches of {self.sessions.every} responses"
        return "sessions"

    @property
    def is_per_step(self) -> bool:
        """Whether the promise is for each step of a session by itself, and none for how many sessions ever alarm."""
        return self.sessions is not None and self.sessions.style == "step"

    @property
    def remaining(self) -> Limits:
        """The limits of a response in no group that has a promise of its own."""
        return self.others or self.limits

    @property
    def parts(self) -> dict[str, Limits]:
        """All that is promised for by itself: groups, and under OTHERS the responses of all further ones or, where no
        group has a promise, all responses.
        """
        if not self.groups or self.sessions is not None:
            return {OTHERS: self.limits}
        return self.groups if self.others is None else {**self.groups, OTHERS: self.others}

    @property
    def watches_drift(self) -> bool:
        """Whether scores of safe responses rank among the calibration scores as these do among each other: not those of
        sessions, of other traffic, or where some calibration scores may be of bad responses.
        """
        return self.sessions is None and self.limits.weighted is None and not self.terms.contaminated

    def joint(self, scores: NDArray[np.floating]) -> Float64:
        """Nonconformity (n,) of detectors' scores (n, d), before any window."""
        return self._score(scores)[0]

    def pvalues(self, scores: NDArray[np.floating]) -> Float64:
        """Joint p-values (n,) in (0, 1] of detectors' scores (n, d), against the pooled calibration scores."""
        return self.limits.pvalues(self._score(scores)[0])

    def judge(
        self,
        scores: NDArray[np.floating],
        groups: Sequence[str] | None = None,
        sessions: Sequence[Progress] | None = None,
    ) -> Judged:
        """P-values and severities of detectors' scores (n, d). Few rows are judged one by one, to the same bit. NaN
        counts as higher than any score.

        `groups`: each row's group, where the promise has groups. `sessions`: the progress of each row's session, rows
        of one session in their order; without it, every row is a session of its own.
        """
        joint: list[float]
        by_detector: list[list[float]] | Float64
        rows = len(scores)
        is_few = rows <= FEW or scores.size <= FEW_SCORES
        natively = None if self._lookup is None or rows > MOST_ROWS else self._lookup(scores)
        if natively is not None:
            is_few = True
            joint, by_detector = natively
        elif is_few:
            pairs = [self._score.of(row) for row in scores.tolist()]
            joint, by_detector = [c for c, _ in pairs], [p for _, p in pairs]
        else:
            columns, details = self._score(scores)
            joint, by_detector = columns.tolist(), details if len(details) > MANY else details.tolist()
        if self.sessions is not None:
            return self._judge_sessions(joint, by_detector, sessions)
        if groups is not None and self.groups:
            return self._judge_groups(joint, by_detector, groups)
        limits, quiet = self.limits, self.limits.min_threshold
        pvalues = [limits.pvalue(c) for c in joint] if is_few else limits.pvalues(columns).tolist()
        return Judged(pvalues, by_detector, [limits.severity(c) if c > quiet else None for c in joint], joint)

    def _judge_groups(
        self, joint: list[float], by_detector: list[list[float]] | Float64, groups: Sequence[str]
    ) -> Judged:
        """Judge rows (n,), each against the calibration scores of its group."""
        by_group, by_no_group = self._by_group, self._by_no_group
        pvalues: list[float] = []
        severities: list[str | None] = []
        for group, score in zip(groups, joint, strict=True):
            pvalue, quiet, limits = by_group.get(group, by_no_group)
            pvalues.append(pvalue(score))
            severities.append(None if score <= quiet else limits.severity(score))
        return Judged(pvalues, by_detector, severities, joint)

    def _judge_sessions(
        self, joint: list[float], by_detector: list[list[float]] | Float64, sessions: Sequence[Progress] | None
    ) -> Judged:
        """Judge rows (n,) in their order, each as the next step of its session."""
        assert self.sessions is not None
        if sessions is None:
            sessions = [self.sessions.start() for _ in joint]
        pvalues: list[float] = []
        severities: list[str | None] = []
        values: list[float] = []
        limits, by_step = self.limits, self.is_per_step
        for progress, score in zip(sessions, joint, strict=True):
            value = progress.push(score)
            if by_step:
                limits = self.groups.get(str(progress.step), self.limits)
                pvalues.append(limits.pvalue(value))
            severity = limits.severity(value) if value > limits.min_threshold else None
            if severity is not None:
                progress.severity = self.gravest([progress.severity, severity])
            severities.append(severity)
            values.append(value)
        if not by_step:
            is_few = len(values) <= FEW_SCORES
            pvalues = [limits.pvalue(c) for c in values] if is_few else limits.pvalues(np.array(values)).tolist()
        return Judged(pvalues, by_detector, severities, values)

    def gravest(self, severities: Sequence[str | None]) -> str | None:
        """The gravest of several severities, None when there is none."""
        return next((name for name in self.alphas if name in severities), None)

    def detector_thresholds(self, severity: str) -> dict[str, float]:
        """The score of each detector above which it speaks for an alarm of that severity.

        Under `any` one of them above its threshold is an alarm, under `all` every one must be, under `k of m` k of
        them. Under `learnt` it is the score that would alarm with all others at their lowest.
        """
        limit = self.thresholds[severity]
        shares = [1.0] * len(self.detectors) if self.combination is None else self.combination.tolist()
        thresholds = {}
        for name, scale, share in zip(self.detectors, self._score.scales, shares, strict=True):
            thresholds[name] = scale.score_at(limit / share) if share else float("inf")
        return thresholds

    def __str__(self) -> str:
        return "\n".join(self.sentence(name) for name in reversed(self.alphas))

    def sentence(self, severity: str) -> str:
        """The promise of one severity in words, with what one calibration set lets a user see."""
        return sentence(self, severity)
