"""Figures about scores and probabilities on labelled responses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]
BINS = 15
DRAWS = 400


class RiskCoverage(NamedTuple):
    """Serving the best-scored share of responses: `coverage` (n,) rising to 1, and the mean loss among them (n,).

    `aurc`: the mean risk over coverages. `excess`: how far that lies above what a perfect order would give.
    """

    coverage: Float64
    risk: Float64
    aurc: float
    excess: float


class Ece(NamedTuple):
    """Expected calibration error, in [0, 1]; its 95% range by the bootstrap; and what 95% of samples as large would
    stay under if the probabilities were right. An `error` under `by_chance` is no evidence of miscalibration.

    The ECE of a sample is too high on average, and a bootstrap sample's once more; so the range is the bootstrap's,
    less what it is too high by. It is one for what samples as large show on average, not for an ECE without noise.
    """

    error: float
    low: float
    high: float
    by_chance: float


class Reliability(NamedTuple):
    """By bin of equal count: mean probability, share that was right, and how many."""

    predicted: list[float]
    right: list[float]
    counts: list[int]


def risk_coverage(scores: ArrayLike, losses: ArrayLike) -> RiskCoverage:
    """From scores (n,), higher = worse, and losses (n,) in [0, 1]; tied scores share their mean loss."""
    values, lost = np.asarray(scores, np.float64), np.asarray(losses, np.float64)
    if values.ndim != 1 or values.shape != lost.shape or not len(values):
        raise CalibrationError(
            f"scores and losses must be two lists of one length, not {values.shape} and {lost.shape}"
        )
    n = len(values)
    coverage = np.arange(1, n + 1) / n
    _, tie = np.unique(values, return_inverse=True)
    shared = (np.bincount(tie, weights=lost) / np.bincount(tie))[tie]
    risk = np.cumsum(shared[np.argsort(values, kind="stable")]) / np.arange(1, n + 1)
    best = np.cumsum(np.sort(lost)) / np.arange(1, n + 1)
    aurc = float(risk.mean())
    return RiskCoverage(coverage, risk, aurc, aurc - float(best.mean()))


def expected_calibration_error(probs: ArrayLike, correct: ArrayLike, *, bins: int = BINS, seed: int = 0) -> Ece:
    """ECE over bins of equal count, of probabilities (n,) that answers are right and whether they were (n,)."""
    p, right = _checked(probs, correct)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(p), (DRAWS, len(p)))
    estimate, resampled = _ece(p, right, bins), np.array([_ece(p[rows], right[rows], bins) for rows in drawn])
    low, high = np.clip(np.quantile(resampled, [0.025, 0.975]) - (resampled.mean() - estimate), 0, 1)
    chance = np.quantile([_ece(p, (rng.random(len(p)) < p).astype(float), bins) for _ in range(DRAWS)], 0.95)
    return Ece(estimate, float(low), float(high), float(chance))


def reliability(probs: ArrayLike, correct: ArrayLike, *, bins: int = BINS) -> Reliability:
    """The reliability diagram's bins."""
    p, right = _checked(probs, correct)
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(p))) if len(part)]
    return Reliability(
        [float(p[part].mean()) for part in parts],
        [float(right[part].mean()) for part in parts],
        [len(part) for part in parts],
    )


def brier(probs: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared difference of probability and outcome, in [0, 1]."""
    p, right = _checked(probs, correct)
    return float(((p - right) ** 2).mean())


def negative_log_likelihood(probs: ArrayLike, correct: ArrayLike) -> float:
    """Mean -log of the probability that was given to what happened, in nats; probabilities are clipped at 1e-12."""
    p, right = _checked(probs, correct)
    return float(-np.log(np.clip(np.where(right > 0, p, 1 - p), 1e-12, 1)).mean())


def _ece(p: Float64, right: Float64, bins: int) -> float:
    order = np.argsort(p, kind="stable")
    gaps = np.add.reduceat((p - right)[order], np.unique(np.linspace(0, len(p), bins + 1).astype(int)[:-1]))
    return float(np.abs(gaps).sum() / len(p))


def _checked(probs: ArrayLike, correct: ArrayLike) -> tuple[Float64, Float64]:
    p, right = np.asarray(probs, np.float64), np.asarray(correct, np.float64)
    if p.ndim != 1 or p.shape != right.shape or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise CalibrationError("probabilities in [0, 1] and labels must be two lists of one length")
    return p, right
