"""Weights for the rule `learnt`: how much each detector's evidence counts, fitted on the scale set alone.

With examples of failures the weights are those of a logistic regression that tells failures from safe responses;
without, those that best show a shift by which every detector's evidence rises alike, given how their evidence moves
together on safe traffic: the solution of (covariance) w = 1, so that detectors that say the same share one vote.
Either way they are 0 or more, so that more evidence never excuses a response, and sum to 1. The weights may be good
or bad at catching failures; the promise about false alarms holds for any, since the calibration set has not been seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
STEPS = 2_000
RIDGE = 1e-3


def combination_weights(safe: Float64, failures: Float64 | None = None) -> Float64:
    """Weights (d,), 0 or more, of sum 1, from evidence of safe responses (n, d) and, where there are, failures (m,
    d).
    """
    detectors = safe.shape[1]
    if failures is None or not len(failures):
        covariance = np.cov(safe.T).reshape(detectors, detectors)
        scale = float(np.trace(covariance)) / detectors or 1.0
        weights = _non_negative(covariance + RIDGE * scale * np.eye(detectors), np.ones(detectors))
    else:
        weights = _logistic(safe, failures)
    total = weights.sum()
    return weights / total if total > 0 else np.full(detectors, 1 / detectors)


def _non_negative(matrix: Float64, target: Float64) -> Float64:
    """w >= 0 that minimises w' matrix w / 2 - target' w, by projected gradient descent."""
    step = 1 / float(np.linalg.eigvalsh(matrix)[-1])
    w = np.zeros(len(target))
    for _ in range(STEPS):
        w = np.maximum(0, w - step * (matrix @ w - target))
    return w


def _logistic(safe: Float64, failures: Float64) -> Float64:
    """Logistic regression with classes of equal weight, coefficients 0 or more, by projected gradient descent."""
    x = np.vstack([safe, failures])
    scale = x.std(axis=0)
    scale[scale == 0] = 1
    x = x / scale
    y = np.repeat([0.0, 1.0], [len(safe), len(failures)])
    share = np.repeat([0.5 / len(safe), 0.5 / len(failures)], [len(safe), len(failures)])
    w, bias = np.zeros(x.shape[1]), 0.0
    centred = np.hstack([x, np.ones((len(x), 1))])
    step = 1 / (0.25 * float(np.linalg.eigvalsh((centred * share[:, None]).T @ centred)[-1]) + RIDGE)
    for _ in range(STEPS):
        error = share * (1 / (1 + np.exp(-np.clip(x @ w + bias, -30, 30))) - y)
        w = np.maximum(0, w - step * (x.T @ error + RIDGE * w))
        bias -= step * error.sum()
    return np.asarray(w / scale, np.float64)
