"""How calibration responses are divided: a scale set for the detectors' scales, a calibration set for the promise.

A third sets the scales, up to MAX_REFERENCE: a scale is no better for more, and everything else is for the promise.
Where other responses set the scales, such as those that the detectors were fitted on, all of calibration carries the
promise. Given these the joint score is a fixed function, so the promise holds exactly, whatever they are like: scores
of rows that a detector was fitted on may lie lower than those of others, which can only cost detection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.contaminated import bad_among
from tocsin_calibration.thresholds.terms import Guarantee

REFERENCE_SHARE = 1 / 3
MIN_REFERENCE, MAX_REFERENCE = 20, 1 << 16
MIN_REFERENCE_SESSIONS = 2
MOST_BAD = 0.5  # of calibration; of more there is nothing to learn


def size_of_reference(rows: int) -> int:
    """How many of the responses belong to the scale set."""
    return min(max(MIN_REFERENCE, round(rows * REFERENCE_SHARE)), MAX_REFERENCE)


def reference_rows(rows: int, seed: int) -> NDArray[np.intp]:
    """The positions of the scale set, ascending, drawn by the seed."""
    drawn = np.random.default_rng(seed).choice(rows, min(rows, size_of_reference(rows)), replace=False)
    return np.sort(drawn)


def terms_of_part(rows: int, terms: Guarantee) -> Guarantee:
    """The terms of the calibration set, when a share of all responses may be bad: at worst all bad ones are in it."""
    if not 0 <= terms.contaminated < MOST_BAD:
        raise CalibrationError(
            f"the share of bad calibration responses must lie in [0, {MOST_BAD:g}), not {terms.contaminated}"
        )
    carrying = rows - size_of_reference(rows)
    if not terms.contaminated or carrying <= 0:
        return terms
    return replace(terms, contaminated=bad_among(rows, terms.contaminated) / carrying)


def require_enough(rows: int, alphas: Mapping[str, float], terms: Guarantee) -> int:
    """How many responses of the calibration set the alpha needs that needs the most. Raises CalibrationError when there
    are fewer.
    """
    part_terms = terms_of_part(rows, terms)
    carrying = max(part_terms.required_size(a) for a in alphas.values())
    if rows - size_of_reference(rows) < carrying:
        strictest = min(alphas.values())
        sure, or_less = "", or_promise_less(alphas)
        if terms.confidence is not None and not terms.else_average:
            sure, or_less = f" with confidence {terms.confidence:g}", or_promise_less(alphas, "promise it on average")
        raise CalibrationError(
            f"{rows} calibration responses cannot keep alpha = {strictest:g}{sure}: "
            f"{responses_needed(strictest, terms)} are needed ({carrying} carry the promise, "
            f"the others set the detectors' scales); record more safe traffic, {or_less}"
        )
    return carrying


def require_carrying(rows: int, alphas: Mapping[str, float], terms: Guarantee, unit: str) -> int:
    """How many responses or sessions each alpha needs at most, where all of them carry the promise. Raises
    CalibrationError when there are fewer.
    """
    carrying = max(terms.required_size(a) for a in alphas.values())
    if rows < carrying:
        raise CalibrationError(
            f"{rows} calibration {unit} cannot keep alpha = {min(alphas.values()):g}: {carrying} are needed, all of "
            f"which carry the promise; record more safe traffic, {or_promise_less(alphas)}"
        )
    return carrying


def scales_of(scores: NDArray[np.floating], detectors: int) -> NDArray[np.float64]:
    """Scores (s, d) of other responses, to set the scales of so many detectors; of very many an even selection.

    Raises CalibrationError when they are too few, not finite, or of other detectors.
    """
    values = np.asarray(scores, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] != detectors or not np.isfinite(values).all():
        raise CalibrationError(
            f"scales must be finite scores of {detectors} detectors, (responses, {detectors}), not {values.shape}"
        )
    if len(values) < MIN_REFERENCE:
        raise CalibrationError(f"scales need at least {MIN_REFERENCE} responses, not {len(values)}")
    return _some(values)


def watched(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Calibration scores (n, d), each column ascending, to hold later ones to; of very many an even selection."""
    return np.sort(_some(scores), axis=0)


def _some(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Up to MAX_REFERENCE rows, evenly spaced in their order."""
    return scores[np.linspace(0, len(scores) - 1, min(len(scores), MAX_REFERENCE)).astype(np.intp)]


def or_promise_less(alphas: Mapping[str, float], *others: str) -> str:
    """The end of an error where data are too few: a larger alpha, the strictest severity left out, or `others`."""
    ways = ["choose a larger alpha", *others]
    if len(alphas) > 1:
        strictest = min(alphas, key=alphas.__getitem__)
        ways[:1] = [
            f"choose a larger alpha for {strictest}",
            f"leave {strictest} out (`tocsin calibrate --{strictest} 0`)",
        ]
    return ", ".join([*ways[:-1], f"or {ways[-1]}"])


def missing(carrying: int, enough: int, least: int) -> int:
    """How many more it takes in all for a calibration set of `enough` responses, of which there are `carrying` now; one
    too many at most.
    """
    return with_reference(enough, least) - with_reference(carrying, least)


def responses_needed(alpha: float, terms: Guarantee = Guarantee()) -> int:
    """How many calibration responses `calibrate` needs for the level alpha."""
    n = with_reference(terms.required_size(alpha), MIN_REFERENCE)
    while terms.contaminated and not _enough(n, alpha, terms):
        n += 1
    return n


def with_reference(carrying: int, least: int) -> int:
    """How many it takes in all for so many in the calibration set, when the scale set has at `least` so many."""
    n = carrying + least
    while n - min(max(least, round(n * REFERENCE_SHARE)), MAX_REFERENCE) < carrying:
        n += 1
    return n


def _enough(rows: int, alpha: float, terms: Guarantee) -> bool:
    carrying = rows - size_of_reference(rows)
    return carrying >= terms_of_part(rows, terms).required_size(alpha)
