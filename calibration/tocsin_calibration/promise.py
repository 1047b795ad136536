"""A calibrated promise: alarm levels, the p-values that decide them, and the sentence a person reads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.joint import RULES, Float64, JointScore, Rule
from tocsin_calibration.law import FalseAlarmLaw
from tocsin_calibration.split import pvalues, required_size, sorted_scores

DEFAULT_ALPHAS: Mapping[str, float] = {"warning": 0.05, "critical": 0.01}
REFERENCE_SHARE = 1 / 3  # part A only sets the detectors' scales; part B carries the promise and gets the rest
MIN_REFERENCE = 20
FEW = 8  # up to here plain Python is quicker than numpy's calls


class Judged(NamedTuple):
    """What calibration says of a batch of n responses scored by d detectors."""

    pvalues: list[float]  # joint, n of them
    by_detector: list[list[float]]  # against part A, n lists of d
    severities: list[str | None]  # the gravest level whose alpha the joint p-value is within, or None


class Promise:
    """At most alpha of the responses exchangeable with the calibration ones alarm, for each severity's alpha.

    `reference` (a, d) and `nonconformity` (b,) are parts A and B of calibration (see `joint`); `alphas` maps
    severities to levels. Made by `calibrate`, or read from a bundle.
    """

    def __init__(
        self,
        reference: NDArray[np.floating],
        nonconformity: NDArray[np.floating],
        alphas: Mapping[str, float],
        rule: Rule,
        detectors: Sequence[str] = (),
    ) -> None:
        self.reference = np.asarray(reference, np.float64)
        self.nonconformity = sorted_scores(nonconformity)
        self.rule: Rule = rule
        self.detectors = tuple(detectors) or tuple(f"detector {j}" for j in range(self.reference.shape[1]))
        self.alphas = dict(sorted(alphas.items(), key=lambda pair: pair[1]))  # gravest first
        self.n = len(self.nonconformity)
        self.laws = {name: FalseAlarmLaw.at(self.n, alpha) for name, alpha in self.alphas.items()}
        self.thresholds = {name: float(self.nonconformity[law.k - 1]) for name, law in self.laws.items()}
        self._score = JointScore(self.reference, rule)
        self._levels = list(self.thresholds.items())
        self._ordered: list[float] = self.nonconformity.tolist()

    def pvalues(self, scores: NDArray[np.floating]) -> Float64:
        """Joint p-values (n,) in (0, 1] of detectors' scores (n, d)."""
        return pvalues(self.nonconformity, self._score(scores)[0])

    def judge(self, scores: NDArray[np.floating]) -> Judged:
        """P-values and severities of detectors' scores (n, d). Few rows are judged one by one, to the same bit."""
        if len(scores) <= FEW:
            rows = [self._judge_one(row) for row in scores.tolist()]
            return Judged(*(list(column) for column in zip(*rows, strict=True)) if rows else ([], [], []))
        joint, by_detector = self._score(scores)
        quiet = self._levels[-1][1]
        severities = [self._severity(c) if c > quiet else None for c in joint.tolist()]
        return Judged(pvalues(self.nonconformity, joint).tolist(), by_detector.tolist(), severities)

    def _judge_one(self, scores: list[float]) -> tuple[float, list[float], str | None]:
        joint, by_detector = self._score.of(scores)
        p = (1.0 + (self.n - bisect_left(self._ordered, joint))) / (self.n + 1.0)
        return p, by_detector, self._severity(joint)

    def gravest(self, severities: Sequence[str | None]) -> str | None:
        """The gravest of several severities, None when there is none."""
        return next((name for name in self.alphas if name in severities), None)

    def _severity(self, joint: float) -> str | None:
        for name, limit in self._levels:
            if joint > limit:
                return name
        return None

    def detector_thresholds(self, severity: str) -> dict[str, float]:
        """The score of each detector above which it speaks for an alarm of that severity.

        Under `any` one of them above its threshold is an alarm, under `all` every one must be.
        """
        limit = self.thresholds[severity]
        return {name: scale.score_at(limit) for name, scale in zip(self.detectors, self._score.scales, strict=True)}

    def __str__(self) -> str:
        return "\n".join(self.sentence(name) for name in reversed(self.alphas))

    def sentence(self, severity: str) -> str:
        """The promise of one severity in words, with what one calibration set lets a user see."""
        low, high = self.laws[severity].rate_interval(0.99)
        return (
            f"{severity}: at most {percent(self.alphas[severity])} of responses like the {self.n:,} calibration "
            f"responses alarm; with this calibration you will see {percent(low)} to {percent(high)} (99 times of 100)"
        )


def calibrate(
    scores: NDArray[np.floating],
    alpha: float | Mapping[str, float] = DEFAULT_ALPHAS,
    *,
    rule: Rule = "any",
    detectors: Sequence[str] = (),
    seed: int = 0,
) -> Promise:
    """A promise from detectors' scores (n, d) of safe responses that played no part in fitting.

    `alpha` is one level, or a level for each severity. `rule`: `any` alarms when some detector stands out, `all`
    when every one does. A third of the rows, drawn by `seed`, set the detectors' scales; the rest carry the promise.

    Raises CalibrationError when the scores are too few for an alpha (saying how many are needed), not finite, or
    of the wrong shape.
    """
    alphas = dict(alpha) if isinstance(alpha, Mapping) else {"alarm": alpha}
    values = np.asarray(scores, np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or not values.shape[1]:
        raise CalibrationError(f"scores must have the shape (responses, detectors), not {values.shape}")
    if rule not in RULES:
        raise CalibrationError(f"the joint rule is one of {', '.join(RULES)}, not '{rule}'")
    if not alphas:
        raise CalibrationError("there is no alpha to promise")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise CalibrationError(
            f"{int((~finite).sum())} of {len(values)} calibration responses have a NaN or infinite score (the first "
            f"is row {int(np.argmin(finite))}); leave them out, or mend the model"
        )
    strictest = min(alphas.values())
    part_a = max(MIN_REFERENCE, round(len(values) * REFERENCE_SHARE))
    carrying = required_size(strictest)
    if len(values) - part_a < carrying:
        raise CalibrationError(
            f"{len(values)} calibration responses cannot keep alpha = {strictest:g}: {responses_needed(strictest)} are "
            f"needed ({carrying} carry the promise, the others set the detectors' scales); record more safe traffic, "
            f"or choose a larger alpha"
        )
    order = np.random.default_rng(seed).permutation(len(values))
    reference, rest = values[order[:part_a]], values[order[part_a:]]
    nonconformity, _ = JointScore(reference, rule)(rest)
    return Promise(np.sort(reference, axis=0), nonconformity, alphas, rule, detectors)


def responses_needed(alpha: float) -> int:
    """How many calibration responses `calibrate` needs for the level alpha."""
    n = required_size(alpha) + MIN_REFERENCE
    while n - max(MIN_REFERENCE, round(n * REFERENCE_SHARE)) < required_size(alpha):
        n += 1
    return n


def percent(rate: float) -> str:
    """A rate as a person writes it: 0.05 -> '5%', 0.0372 -> '3.7%'."""
    return f"{rate * 100:.2g}%" if rate < 0.1 else f"{rate * 100:.3g}%"
