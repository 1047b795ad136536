"""A gate for rollouts: promote, continue or abort a canary by the evidence of `two_streams`, looked at whenever.

Guarantees, each over all looks for ever, under the assumptions of `two_streams`:

- *wrong abort*: while the canary alarms at most as often as what it is compared with, P(ever "abort") <= delta;
- *wrong promotion*: while it alarms at least `excess` times as often, P(ever "promote") <= beta.

Between the two (a canary that alarms 1.2 times as often, with an excess of 1.5) either verdict is right. A verdict
stands: evidence counts at its highest so far, and an abort outweighs a promotion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil, inf, lgamma, log, log1p
from typing import Any, Literal

import numpy as np

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.online.ratio_alternatives import Direction, log_mixture
from tocsin_calibration.online.two_streams import ALMOST_ONE, Floats, StreamComparison

Decision = Literal["promote", "continue", "abort"]
FURTHEST = 1e3  # ratio of rates, and its inverse, beyond which an interval does not say more
STEPS = 24  # of a bisection
GRID = 121  # ratios between which an interval's ends are looked for


@dataclass(frozen=True)
class AnytimeInterval:
    """A figure with bounds that hold at all looks at once, with probability `level` or more."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DecisionEvidence:
    """Of one decision: log of the e-value now and at its highest so far, the limit that decides, after how many batches
    it was reached (None: not yet), and about how many more canary responses that takes at the rates so far (None:
    never).
    """

    log_evalue: float
    highest: float
    limit: float
    reached: int | None
    responses_needed: int | None


@dataclass(frozen=True)
class GateVerdict:
    """What a gate says after some batches: `ratio` is of the canary's rate to the `reference`, which is the stable
    version's of so many alarms and responses, or the promised rate itself.
    """

    decision: Decision
    batches: int
    canary_alarms: int
    canary_responses: int
    canary_rate: AnytimeInterval
    reference: AnytimeInterval
    stable_alarms: int | None
    stable_responses: int | None
    ratio: AnytimeInterval
    abort: DecisionEvidence
    promote: DecisionEvidence

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it: what is infinite or unknown is None."""
        facts: dict[str, Any] = _finite(asdict(self))
        return facts


@dataclass(frozen=True)
class RolloutGate:
    """What a rollout is held to: the probabilities `delta` of a wrong abort and `beta` of a wrong promotion at the
    named `excess`, and the `level` of intervals. Raises CalibrationError where they are none.
    """

    delta: float = 0.01
    beta: float = 0.05
    excess: float = 1.5
    level: float = 0.95

    def __post_init__(self) -> None:
        for name, value in (("delta", self.delta), ("beta", self.beta), ("level", self.level)):
            if not 0 < value < 1:
                raise CalibrationError(f"{name} is a probability between 0 and 1, not {value:g}")
        if not 1 < self.excess <= 100:
            raise CalibrationError(
                f"the excess is how many times the rate must not be promoted, over 1 and up to 100, not {self.excess:g}"
            )

    def verdict(self, comparison: StreamComparison) -> GateVerdict:
        """What the batches so far say. Raises CalibrationError where no rate can be `excess` times the promised one."""
        if self.excess >= comparison.highest_ratio:
            raise CalibrationError(f"no rate is {self.excess:g} times the promised one: choose a smaller excess")
        alarms, responses = comparison.canary
        abort, batches = _evidence(comparison, 1.0, "above", log(1 / self.delta))
        promote, _ = _evidence(comparison, self.excess, "below", log(1 / self.beta))
        reference, stable = _reference(comparison, self.level)
        decision: Decision = "continue"
        if abort.reached is not None:
            decision = "abort"
        elif promote.reached is not None:
            decision = "promote"
        return GateVerdict(
            decision,
            batches,
            alarms,
            responses,
            rate_interval(alarms, responses, self.level),
            reference,
            *stable,
            ratio_interval(comparison, self.level),
            abort,
            promote,
        )


def rate_interval(alarms: int, responses: int, level: float = 0.95) -> AnytimeInterval:
    """The rate of a stream of independent responses with one rate, at all looks at once.

    The rates p at which the likelihood under a Beta(1/2, 1/2) mixture is less than 1/(1 - level) times that at p: by
    Ville's inequality they hold the true rate for ever with probability `level` (Robbins 1970). Unlike the gate's own
    evidence it supposes a rate that does not change.
    """
    if not responses:
        return AnytimeInterval(0.0, 0.0, 1.0)
    calm = responses - alarms
    mixture = lgamma(alarms + 0.5) + lgamma(calm + 0.5) - lgamma(responses + 1) - 2 * lgamma(0.5)
    limit = log(1 / (1 - level))

    def excluded(rate: float) -> bool:
        if rate <= 0 or rate >= 1:
            return (alarms if rate <= 0 else calm) > 0
        return mixture - alarms * log(rate) - calm * log1p(-rate) >= limit

    value = alarms / responses
    return AnytimeInterval(value, _edge(0.0, value, excluded), _edge(1.0, value, excluded))


def ratio_interval(comparison: StreamComparison, level: float = 0.95) -> AnytimeInterval:
    """The ratio of the two rates, at all looks at once: all ratios between the lowest and the highest that neither
    test, each at half of 1 - level, refutes now.
    """
    limit = log(2 / (1 - level))
    furthest = min(FURTHEST, ALMOST_ONE * comparison.highest_ratio)
    ratios = np.geomspace(1 / FURTHEST, furthest, GRID)

    def refuted(ratio: float, direction: Direction) -> bool:
        return float(_log_evalues(comparison, ratio, direction)[-1]) >= limit

    above = [refuted(ratio, "above") for ratio in ratios]
    below = [refuted(ratio, "below") for ratio in ratios]
    possible = [at for at in range(GRID) if not above[at] and not below[at]]
    value = _observed_ratio(comparison)
    if not possible:  # the two tests contradict each other between two ratios of the grid
        first = next(at for at in range(GRID) if below[at])
        return AnytimeInterval(value, float(ratios[max(0, first - 1)]), float(ratios[min(GRID - 1, first + 1)]))
    lowest, highest = possible[0], possible[-1]
    low, high = 0.0, inf if furthest == FURTHEST else comparison.highest_ratio
    if lowest:
        low = _edge(ratios[lowest - 1], ratios[lowest], lambda ratio: refuted(ratio, "above"))
    if highest < GRID - 1:
        high = _edge(ratios[highest + 1], ratios[highest], lambda ratio: refuted(ratio, "below"))
    return AnytimeInterval(value, low, high)


def _reference(comparison: StreamComparison, level: float) -> tuple[AnytimeInterval, tuple[int | None, int | None]]:
    """What the canary is compared with: its rate, and counts of alarms and responses where it was counted."""
    if comparison.stable is not None:
        return rate_interval(*comparison.stable, level), comparison.stable
    rate = comparison.reference_rate or 0.0
    return AnytimeInterval(rate, rate, rate), (None, None)


def _observed_ratio(comparison: StreamComparison) -> float:
    alarms, responses = comparison.canary
    rate = comparison.reference_rate
    if not responses or rate is None:
        return 1.0
    return alarms / responses / rate if rate else (inf if alarms else 1.0)


def _evidence(
    comparison: StreamComparison, ratio: float, direction: Direction, limit: float
) -> tuple[DecisionEvidence, int]:
    """The evidence for one decision, and of how many batches."""
    logs = _log_evalues(comparison, ratio, direction)
    crossed = np.flatnonzero(logs >= limit)
    reached = int(crossed[0]) if len(crossed) else None
    needed = 0 if reached is not None else _responses_needed(comparison, ratio, direction, limit)
    return DecisionEvidence(float(logs[-1]), float(logs.max()), limit, reached, needed), len(logs) - 1


def _log_evalues(comparison: StreamComparison, ratio: float, direction: Direction) -> Floats:
    """log of the e-process at the start and after each batch (T + 1,)."""
    trust, increments = comparison.log_increments(ratio, direction)
    return np.concatenate([[0.0], log_mixture(trust, increments)])


def _responses_needed(comparison: StreamComparison, ratio: float, direction: Direction, limit: float) -> int | None:
    """How many more canary responses it takes at the rates so far, by the alternative that gets there first."""
    if not comparison.canary[1] or comparison.reference_rate is None:
        return None
    trust, increments = comparison.log_increments(ratio, direction)
    missing = limit - np.log(trust) - increments.sum(axis=1)
    growth = comparison.log_growth(ratio, direction)
    growing = growth > 0
    return ceil(float((missing[growing] / growth[growing]).min())) if growing.any() else None


def _edge(outside: float, inside: float, excluded: Callable[[float], bool]) -> float:
    """Where exclusion ends between a ratio outside of an interval and one inside; `outside` itself if it is not."""
    if not excluded(outside):
        return float(outside)
    for _ in range(STEPS):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if excluded(middle) else (outside, middle)
    return float(outside)


def _finite(facts: Any) -> Any:
    if isinstance(facts, dict):
        return {name: _finite(value) for name, value in facts.items()}
    return None if isinstance(facts, float) and not np.isfinite(facts) else facts
