"""Weighted calibration: a promise for other traffic than was recorded, when the likelihood ratio is known.

Calibration response i has the weight w_i proportional to how much more often its like comes in the traffic to be
guarded than in the recording. The threshold is the smallest s_(k) whose weights up to k reach (1-alpha) of the total,
with the new response's own weight counted as if it lay at infinity (Tibshirani et al. 2019, arXiv:1904.06019).

Guarantee: P(alarm) <= alpha on the traffic that the weights describe. The new response's weight is unknown here, so
the largest one stands for it: one threshold for all, still valid for weights up to that, and dearer by at most
max w / sum w.

The largest weight cannot stand for what the recording has missed altogether. Likelihood ratios average 1 over the
traffic they are taken from; where a recording's are known to be on that scale (`normalised`) and average less, the rest
of the mass was missed, and is counted as if it lay at infinity, too.

Weights spread unevenly leave few effective responses. How many is asked at the threshold t, as the tail's weights make
the rate uncertain: alpha (1 - alpha) (sum w)^2 / sum w^2 (1{s > t} - alpha)^2, the new response's weight included, less
1; equal weights leave n. The rate's law is that of as many responses (the delta method: an approximation, simulated);
fewer than alpha needs are refused. Which recordings are refused depends on the draw: among those that are left,
recordings that missed the tail are more frequent, and without the scale of the ratios nothing shows it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.split import exact, required_size

Float64 = NDArray[np.float64]


def effective_size(weights: ArrayLike) -> float:
    """How many equally weighted responses these are worth, in [1, n]: (sum w)^2 / sum w^2 (Kish 1965)."""
    w = _checked(weights)
    return float(w.sum() ** 2 / (w**2).sum())


class Weighted(NamedTuple):
    """Sorted calibration scores (n,), their weights (n,), and the weight that lies at infinity: what a new response has
    at most, and what the recording has missed.
    """

    scores: Float64
    weights: Float64
    new: float

    @classmethod
    def of(cls, scores: ArrayLike, weights: ArrayLike, *, normalised: bool = False) -> Weighted:
        """Sorted by score; `normalised`: the weights are likelihood ratios on their own scale. Raises CalibrationError
        on weights that are negative, not finite, all 0 or too few.
        """
        values, w = np.asarray(scores, np.float64), _checked(weights)
        if values.shape != w.shape:
            raise CalibrationError(f"there are {len(values)} calibration scores, but {len(w)} weights")
        order = np.argsort(values, kind="stable")
        missed = max(0.0, len(w) - float(w.sum())) if normalised else 0.0
        return cls(values[order], w[order], float(w.max()) + missed)

    def reach(self, alpha: float) -> int | None:
        """The smallest k whose weights up to s_(k) reach 1 - alpha of all, None where none does."""
        total = self.weights.sum() + self.new
        reached = np.cumsum(self.weights) >= (1 - float(exact(alpha))) * total * (1 - 1e-12)
        return int(np.argmax(reached)) + 1 if reached.any() else None

    def effective(self, alpha: float, k: int) -> int:
        """How many equally weighted responses the rate of the threshold s_(k) is as uncertain as."""
        level = float(exact(alpha))
        beyond = np.arange(len(self.weights)) >= k
        spread = (self.weights**2 * (beyond - level) ** 2).sum() + self.new**2 * (1 - level) ** 2
        return int(level * (1 - level) * (self.weights.sum() + self.new) ** 2 / spread + 1e-6) - 1

    def rank(self, alpha: float) -> int:
        """k of the threshold s_(k). Raises CalibrationError when the effective sample is too small for alpha."""
        needed, k = required_size(alpha), self.reach(alpha)
        size = 0 if k is None else self.effective(alpha, k)
        if k is None or size < needed:
            raise CalibrationError(
                f"the weights leave {size:.0f} effective of {len(self.scores)} calibration responses, too few for "
                f"alpha = {alpha:g} (at least {needed}): the recording and the traffic to guard differ too much; "
                f"record traffic that is more like it, or choose a larger alpha"
            )
        return k

    def pvalues(self, scores: ArrayLike) -> Float64:
        """(weight of the calibration scores at least as high + new) / (all weight + new), in (0, 1]."""
        above = np.append(np.cumsum(self.weights[::-1])[::-1], 0.0)
        at = np.searchsorted(self.scores, np.asarray(scores, np.float64), side="left")
        return np.asarray((above[at] + self.new) / (above[0] + self.new), np.float64)


def label_shift_weights(labels: ArrayLike, expected: ArrayLike) -> Float64:
    """Weights (n,) for calibration responses with these classes (n,), when classes come in other shares (C,).

    Label shift: the classes' shares change, what responses of a class look like does not. Raises CalibrationError
    when a class that is expected was never recorded.

        >>> label_shift_weights([0, 0, 0, 1], [0.5, 0.5]).round(2).tolist()
        [0.67, 0.67, 0.67, 2.0]
    """
    classes, shares = np.asarray(labels, np.intp), np.asarray(expected, np.float64)
    if (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise CalibrationError(f"the classes' expected shares must be 0 or more and sum to 1, not {shares.sum():g}")
    counts = np.bincount(classes, minlength=len(shares))
    if len(counts) > len(shares) or (missing := np.flatnonzero((counts == 0) & (shares > 0))).size:
        problem = f"class {missing[0]} is expected but not recorded" if len(counts) <= len(shares) else "unknown class"
        raise CalibrationError(f"label shift cannot be weighted: {problem}")
    return np.asarray(shares[classes] / (counts[classes] / len(classes)), np.float64)


def estimate_shares(labels: ArrayLike, predicted: ArrayLike, target: ArrayLike, classes: int) -> Float64:
    """The classes' shares (C,) in unlabelled target traffic, from predictions there (m,) and a labelled sample.

    Solves C q = mu for the confusion matrix C of the labelled sample (n,) and the target's predicted shares mu, by
    least squares clipped to distributions (black-box shift estimation; Lipton et al. 2018, arXiv:1802.03916).

        >>> labels, predicted = [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]
        >>> estimate_shares(labels, predicted, [1, 1, 1, 0], classes=2).round(2).tolist()
        [0.25, 0.75]
    """
    truth, said = np.asarray(labels, np.intp), np.asarray(predicted, np.intp)
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (said, truth), 1.0)
    columns = confusion.sum(axis=0)
    if (columns == 0).any():
        raise CalibrationError(f"class {int(np.argmin(columns))} has no labelled response to estimate its share from")
    confusion /= columns
    mu = np.bincount(np.asarray(target, np.intp), minlength=classes) / len(np.asarray(target))
    shares = np.clip(np.linalg.lstsq(confusion, mu, rcond=None)[0], 0, None)
    return np.asarray(shares / shares.sum(), np.float64)


def covariate_weights(recorded: ArrayLike, target: ArrayLike, *, steps: int = 50) -> Float64:
    """Likelihood ratios (n,) of recorded rows (n, D), learnt by telling them from target rows (m, D).

    Logistic regression on standardised columns, ridge 1; the ratio is its odds, corrected for n and m. It is not
    clipped: that would flatter the effective size and break the promise where traffic shifted most. The promise is as
    good as the ratio is.

        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> recorded, target = rng.normal(size=(2_000, 1)), rng.normal(1, 1, size=(2_000, 1))
        >>> weights = covariate_weights(recorded, target)
        >>> bool(weights[recorded[:, 0] > 1].mean() > 5 * weights[recorded[:, 0] < 0].mean())
        True
    """
    a, b = np.asarray(recorded, np.float64), np.asarray(target, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise CalibrationError(f"recorded and target rows must have the same columns, not {a.shape} and {b.shape}")
    mean, scale = a.mean(axis=0), a.std(axis=0)
    scale[scale == 0] = 1
    x = np.hstack([np.ones((len(a) + len(b), 1)), (np.vstack([a, b]) - mean) / scale])
    y = np.repeat([0.0, 1.0], [len(a), len(b)])
    ridge = np.diag([1e-9, *np.ones(a.shape[1])])
    beta = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, x.T @ (y - p) - ridge @ beta)
        beta += step
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(np.exp(np.clip(x[: len(a)] @ beta, -30, 30)) * len(a) / len(b), np.float64)


def _checked(weights: ArrayLike) -> Float64:
    w = np.asarray(weights, np.float64)
    if w.ndim != 1 or not w.size or not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
        raise CalibrationError("weights must be a list of finite numbers, 0 or more, not all 0")
    return w
