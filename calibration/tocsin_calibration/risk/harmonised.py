"""Risk from several weak sources without labels: one small model that must please them all.

A harmoniser h(x) over C answers is trained at once against every source: the model's own answer, and weak labellers
such as rules, other models, nearest neighbours. Source s gives each response an answer, or abstains (-1), which adds
no loss. Its loss is its mean cross-entropy under h; the vector of losses is made one number by a scalarisation,

    linear       sum_s l_s                the sources count by how much they say
    quadratic    (sum_s l_s)^2            the same minimum, steeper far from it
    chebyshev    max_s l_s                the worst-served source counts, the Pareto-fair choice

and the risk of an answer is 1 - P_h(answer | x) (Pareto optimal self-supervision; Zhao et al. 2023, arXiv:2306.16564).
Sources that err independently cancel, where one source alone cannot tell its errors. It is a score: calibrate it on the
few labels there are (`correctness`) before reading it as a probability.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]
Scalarisation = Literal["linear", "quadratic", "chebyshev"]
STEPS = 600
RATE = 0.05
RIDGE = 1e-3


class Harmoniser:
    """A softmax regression on standardised features, fitted to all sources at once."""

    def __init__(self, mean: Float64, scale: Float64, weights: Float64, bias: Float64) -> None:
        self._mean, self._scale, self._weights, self._bias = mean, scale, weights, bias

    def probabilities(self, features: ArrayLike) -> Float64:
        """P_h (n, C) of features (n, D)."""
        x = (np.asarray(features, np.float64) - self._mean) / self._scale
        return _softmax(x @ self._weights + self._bias)

    def risk(self, features: ArrayLike, answers: ArrayLike) -> Float64:
        """1 - P_h(answer) (n,), in [0, 1], of the answers (n,) that were given."""
        probabilities = self.probabilities(features)
        given = probabilities[np.arange(len(probabilities)), np.asarray(answers, np.intp)]
        return np.asarray(1 - given, np.float64)


def harmonise(
    features: ArrayLike, sources: ArrayLike, classes: int, scalarisation: Scalarisation = "quadratic"
) -> Harmoniser:
    """From features (n, D) and what S sources said of each response (n, S): an answer 0..classes-1, or -1 to abstain.

    Full-batch Adam from zero: deterministic. Raises CalibrationError on other answers, or a source that says nothing.

        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> features = rng.normal(size=(300, 2))
        >>> truth = (features[:, 0] > 0).astype(int)
        >>> sources = np.stack([truth, truth, 1 - truth], axis=1)
        >>> harmonise(features, sources, classes=2).risk(features[:1], truth[:1]).shape
        (1,)
    """
    x, said = np.asarray(features, np.float64), np.asarray(sources, np.intp)
    if x.ndim != 2 or said.ndim != 2 or len(x) != len(said) or not said.shape[1]:
        raise CalibrationError(f"features (n, D) and sources (n, S) are needed, not {x.shape} and {said.shape}")
    if said.min() < -1 or said.max() >= classes:
        raise CalibrationError(f"a source answers 0..{classes - 1}, or -1 to abstain")
    if silent := np.flatnonzero((said < 0).all(axis=0)).tolist():
        raise CalibrationError(f"source {silent[0]} abstains from everything; leave it out")
    if scalarisation not in get_args(Scalarisation):
        raise CalibrationError(f"losses are scalarised as {', '.join(get_args(Scalarisation))}, not '{scalarisation}'")
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    x = (x - mean) / scale
    # Each source's target distribution, mean over the responses that it speaks of: (S, n, C).
    targets = np.stack([np.eye(classes + 1)[column][:, :classes] for column in said.T])
    targets /= (said >= 0).sum(axis=0)[:, None, None]
    parameters = np.zeros((x.shape[1] + 1, classes))
    first, second = np.zeros_like(parameters), np.zeros_like(parameters)
    inputs = np.hstack([x, np.ones((len(x), 1))])
    for step in range(1, STEPS + 1):
        probabilities = _softmax(inputs @ parameters)
        losses = -(targets * np.log(np.maximum(probabilities, 1e-12))).sum(axis=(1, 2))
        pull = np.einsum("s,snc->nc", _slopes(losses, scalarisation), targets)
        gradient = inputs.T @ (probabilities * pull.sum(axis=1, keepdims=True) - pull) + RIDGE * parameters
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = RATE * (1 - step / STEPS)
        parameters -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-9)
    return Harmoniser(mean, scale, parameters[:-1], parameters[-1])


def _slopes(losses: Float64, scalarisation: Scalarisation) -> Float64:
    """How much each loss counts (S,): the scalarisation's derivative."""
    if scalarisation == "linear":
        return np.ones(len(losses))
    if scalarisation == "quadratic":
        return np.full(len(losses), 2 * losses.sum())
    return np.asarray(losses == losses.max(), np.float64)


def _softmax(values: Float64) -> Float64:
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float64)
