"""Which detectors can read the signals there are, what they cost, and how well they tell shifted responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tocsin_detectors.detector import Detector
from tocsin_detectors.errors import DetectorError, SignalError
from tocsin_detectors.graph import build_graph
from tocsin_detectors.observation import FittingData, Float32, Observations
from tocsin_detectors.registry import find, names, parse
from tocsin_detectors.scorer import Scorer
from tocsin_detectors.separation import Separation, separation

ROWS = 10_000  # responses looked at
HELD_OUT = 0.3  # the share of safe ones that detectors are not fitted on, and that shifted ones are compared with


class Suggestion(NamedTuple):
    """A detector that can be fitted: what to type, seconds a response at batch 1 and 64, and how well it tells."""

    spec: str
    cost: tuple[float, float]
    separation: Separation | None


class Refusal(NamedTuple):
    """A detector that reads a signal there is, but cannot be fitted on it, and why."""

    spec: str
    why: str


def suggest(
    safe: FittingData,
    shifted: FittingData | None = None,
    *,
    seed: int = 0,
    on_try: Callable[[str], None] = lambda spec: None,
) -> tuple[list[Suggestion], list[Refusal]]:
    """Try every detector on every signal it could read, on up to 10,000 responses. The best at telling come first.

    `shifted` are responses that should alarm; without them the cheapest come first. Fit the chosen ones anew, and
    calibrate on responses that were in neither: what was chosen by its figures here looks better here than it is.
    """
    mine = safe.sample(ROWS, seed=seed)
    order = np.random.default_rng(seed).permutation(mine.rows)
    cut = round(mine.rows * (1 - HELD_OUT))
    train, held_out = mine.take(np.sort(order[:cut])), mine.take(np.sort(order[cut:]))
    other = shifted.sample(ROWS, seed=seed) if shifted is not None else None
    suggestions, refusals = [], []
    for spec in candidates(mine):
        on_try(spec)
        try:
            suggestions.append(_try(parse(spec), spec, train, held_out, other, seed))
        except DetectorError as error:
            refusals.append(Refusal(spec, str(error)))
    if other is None:
        suggestions.sort(key=lambda suggestion: suggestion.cost[1])
    else:
        suggestions.sort(key=lambda suggestion: -suggestion.separation.auroc.value if suggestion.separation else 0)
    return suggestions, refusals


def candidates(safe: Observations) -> list[str]:
    """Detectors by the names of the signals they usually read, and those for probabilities and embeddings also by
    what a signal under another name looks like."""
    there = set(safe.names())
    named = [name for name in names() if set(find(name)().reads) <= there]
    usual = {signal for name in names() for signal in (*find(name)().reads, *getattr(find(name)(), "fits_on", ()))}
    guessed = [
        f"{name}:{signal}"
        for signal in sorted(there - usual)
        for name in names()
        if find(name)().reads == (_looks_like(safe, signal),)
    ]
    return named + guessed


def _looks_like(safe: Observations, signal: str) -> str:
    try:
        safe.require_distribution(signal)
    except SignalError:
        return "embedding" if len(safe.shape(signal)) == 1 and safe.width(signal) > 1 else ""
    return "probs"


def _try(
    detector: Detector, spec: str, train: Observations, held_out: Observations, other: Observations | None, seed: int
) -> Suggestion:
    """Fit a detector, and measure its cost and how well it separates `other` from held-out safe responses."""
    scorer = Scorer(build_graph([detector.fit(train, seed=seed)], train))
    separability = None
    if other is not None:
        safe_scores, shifted_scores = (_finite(scorer(rows)[:, 0]) for rows in (held_out, other))
        if not (len(safe_scores) and len(shifted_scores)):
            raise SignalError("every score is NaN or infinite")
        separability = separation(safe_scores, shifted_scores, seed=seed)
    return Suggestion(spec, (scorer.cost(1), scorer.cost(64)), separability)


def _finite(scores: Float32) -> Float32:
    finite: Float32 = scores[np.isfinite(scores)]
    return finite
