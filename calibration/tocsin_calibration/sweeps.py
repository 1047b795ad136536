"""Calibration on more responses than memory holds, wherever they lie, in two sweeps over their scores.

The first sweep takes the responses of the scale set, from which the detectors' scales and the brackets of the
thresholds come; the second counts all others. Counts of parts can be merged in any order, so that parts can be swept by
many processes and machines; thresholds are the order statistics that sorting all scores would give, to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.dividing import reference_rows, require_enough, terms_of_part
from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.promise import Promise
from tocsin_calibration.thresholds.counting import Bracket, NotBracketedError, RankCounts, expected_brackets
from tocsin_calibration.thresholds.joint import LEARNT, Float64, JointScore, needed_of
from tocsin_calibration.thresholds.learnt import combination_weights
from tocsin_calibration.thresholds.ordered import Ordered
from tocsin_calibration.thresholds.smoothing import seed_of
from tocsin_calibration.thresholds.terms import Guarantee

Rows = NDArray[np.intp]


class Counting(NamedTuple):
    """What the scale set decides: the scale of the joint score, and the edges and brackets by which it is counted."""

    reference: Float64  # (a, d), each column ascending
    rule: str
    combination: Float64 | None
    edges: Float64
    brackets: tuple[Bracket, ...]

    def counted(self, batches: Iterable[NDArray[np.floating]]) -> RankCounts:
        """Count responses' scores, batches of (k, d). Raises CalibrationError when some are not finite."""
        joint, counts = JointScore(self.reference, self.rule, self.combination), RankCounts(self.edges, self.brackets)
        for scores in batches:
            counts.add(joint(checked(scores))[0])
        return counts


class Responses(ABC):
    """Safe responses that can be swept."""

    rows: int

    @abstractmethod
    def at(self, rows: Rows) -> NDArray[np.floating]:
        """The scores (a, d) of the responses at ascending positions."""

    @abstractmethod
    def count(self, counting: Counting, without: Rows) -> RankCounts:
        """All responses counted but those at ascending positions."""


class Held(Responses):
    """Scores (n, d) in memory."""

    def __init__(self, scores: Float64) -> None:
        self.rows, self._scores = len(scores), scores

    def at(self, rows: Rows) -> Float64:
        return self._scores[rows]

    def count(self, counting: Counting, without: Rows) -> RankCounts:
        others = np.ones(self.rows, bool)
        others[without] = False
        return counting.counted([self._scores[others]])


def calibrate_in_sweeps(
    responses: Responses,
    alpha: float | Mapping[str, float],
    *,
    rule: str = "any",
    detectors: Sequence[str] = (),
    seed: int = 0,
    confidence: float | None = None,
    on_average: bool = False,
    contaminated: float = 0.0,
    failures: NDArray[np.floating] | None = None,
) -> Promise:
    """The promise that `calibrate` makes of the same responses' scores, to the bit, in memory that does not grow."""
    alphas, wanted_terms = alphas_of(alpha), Guarantee.chosen(confidence, on_average, contaminated)
    terms = terms_of_part(responses.rows, wanted_terms)
    require_enough(responses.rows, alphas, wanted_terms)
    rows = reference_rows(responses.rows, seed)
    safe = checked(responses.at(rows))
    reference = np.sort(safe, axis=0)
    combination = combination_of(rule, reference, safe, failures)
    n = responses.rows - len(rows)
    ranks = sorted({terms.rank(n, a) for a in alphas.values()})
    sample = JointScore(reference, rule, combination)(safe)[0]
    counting = Counting(reference, rule, combination, np.unique(sample), tuple(expected_brackets(sample, n, ranks)))
    ordered = _ordered(responses, counting, rows, ranks)
    auxiliary = seed_of(ordered.scores.tobytes(), seed)
    return Promise(
        reference, ordered, alphas, rule, detectors, terms=terms, combination=combination, auxiliary=auxiliary
    )


def _ordered(responses: Responses, counting: Counting, rows: Rows, ranks: Sequence[int]) -> Ordered:
    try:
        return responses.count(counting, rows).ordered(ranks)
    except NotBracketedError as missed:
        again = counting._replace(brackets=(*counting.brackets, *missed.brackets))
        return responses.count(again, rows).ordered(ranks)


def combination_of(
    rule: str, reference: Float64, safe: Float64, failures: NDArray[np.floating] | None
) -> Float64 | None:
    """The weights of the rule `learnt`, from the scale set and failures; None for others. Raises CalibrationError when
    the rule does not fit.
    """
    needed_of(rule, safe.shape[1])
    if rule != LEARNT:
        return None
    scale = JointScore(reference, "any")
    bad = None if failures is None else scale.surprisals(checked(failures))
    return combination_weights(scale.surprisals(safe), bad)


def alphas_of(alpha: float | Mapping[str, float]) -> dict[str, float]:
    """Levels by severity. Raises CalibrationError when there is none."""
    alphas = dict(alpha) if isinstance(alpha, Mapping) else {"alarm": alpha}
    if not alphas:
        raise CalibrationError("there is no alpha to promise")
    return alphas


def checked(scores: NDArray[np.floating]) -> Float64:
    """Scores (n, d) as numbers. Raises CalibrationError when their shape is another, or some are not finite."""
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
