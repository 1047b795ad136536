"""The worth of an answer, wrong ones costing and abstaining neutral.

Distributional Correctness Score: a model that spreads its belief as p_c on the right answer, p_w on wrong ones and
p_idk on "I don't know" earns

    DCS = (l_c p_c - l_w p_w) (1 - p_idk),    l_c >= l_w >= 0,

in [-l_w, l_c]. Mass on wrong answers costs, mass on abstaining is neutral, and full abstention earns 0. The ternary
score knows only what was said: +l_c right, -l_w wrong, 0 abstained (Kalai et al. 2025, arXiv:2509.04664).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Loads:
    """What a right answer earns and a wrong one costs, in any one unit of value; both 0 or more, and not both 0.

    The published score wants l_c >= l_w; where a wrong answer costs more than a right one earns, as it often does, the
    score is the same formula and still neutral about abstaining.
    """

    right: float = 1.0
    wrong: float = 1.0

    def __post_init__(self) -> None:
        if not (self.right >= 0 and self.wrong >= 0 and self.right + self.wrong > 0):
            raise CalibrationError(
                f"what a right answer earns ({self.right:g}) and a wrong one costs ({self.wrong:g}) must be 0 or more, "
                f"and not both 0"
            )


def distributional_correctness(probs: ArrayLike, labels: ArrayLike, idk: int | None, loads: Loads = Loads()) -> Float64:
    """DCS (n,) of answer distributions (n, C), the right answers (n,), and the choice that abstains, if there is one.

    Raises CalibrationError when a row is no distribution, or the right answer is to abstain.

        >>> distributional_correctness([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], [0, 0], idk=2).round(2).tolist()
        [0.63, 0.0]
    """
    p, truth = np.asarray(probs, np.float64), np.asarray(labels, np.intp)
    if p.ndim != 2 or len(p) != len(truth) or (p < 0).any() or not np.allclose(p.sum(axis=1), 1, atol=1e-4):
        raise CalibrationError("answers must be rows of probabilities that sum to 1, one for each label")
    if len(truth) and not 0 <= truth.min() <= truth.max() < p.shape[1]:
        raise CalibrationError(f"labels must lie in 0..{p.shape[1] - 1}")
    if idk is not None and (truth == idk % p.shape[1]).any():
        raise CalibrationError(f"choice {idk} abstains, and cannot be the right answer")
    p_right = p[np.arange(len(p)), truth]
    p_idk = np.zeros(len(p)) if idk is None else p[:, idk]
    return np.asarray((loads.right * p_right - loads.wrong * (1 - p_right - p_idk)) * (1 - p_idk), np.float64)


def ternary(correct: ArrayLike, abstained: ArrayLike, loads: Loads = Loads()) -> Float64:
    """+right, -wrong or 0 (n,) by whether answers were right (n,) and whether they abstained (n,).

    >>> ternary([True, False, False], abstained=[False, False, True]).tolist()
    [1.0, -1.0, 0.0]
    """
    value = np.where(np.asarray(correct, bool), loads.right, -loads.wrong)
    return np.where(np.asarray(abstained, bool), 0.0, value)


def expected_dcs(p_correct: ArrayLike, p_idk: ArrayLike, loads: Loads = Loads()) -> Float64:
    """Expected DCS (n,) while the truth is unknown.

    `p_correct` (n,): the calibrated probability that the answer, if one is given, is right (see `correctness`); `p_idk`
    (n,): the answer's own mass on abstaining. Of the rest, p_correct is taken for right: p_c = p_correct (1 - p_idk).

        >>> expected_dcs([0.9, 0.5], [0.1, 0.1]).round(2).tolist()
        [0.65, 0.0]
    """
    right, idk = np.asarray(p_correct, np.float64), np.asarray(p_idk, np.float64)
    answer_mass = 1 - idk
    return np.asarray((loads.right * right - loads.wrong * (1 - right)) * answer_mass * answer_mass, np.float64)
