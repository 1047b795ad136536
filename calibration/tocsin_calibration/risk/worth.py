"""What an alarm is worth: how often it is right, and how many come a day, at the rate at which failures really happen.

At a failure rate pi, power (the share of failures that alarm) and false-alarm rate alpha, an alarm is right with
probability pi power / (pi power + (1 - pi) alpha). At one failure in a thousand, a perfect detector at alpha = 5% is
right once in 51 alarms; that is arithmetic, not a fault, and better known before than after.
"""

from __future__ import annotations

from typing import NamedTuple

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.binomial import binomial_quantile, clopper_pearson
from tocsin_calibration.thresholds.law import FalseAlarmLaw

SURE = 0.995  # of each of the two ranges that a count's range is made of


class Range(NamedTuple):
    """A figure, and the range it lies in."""

    value: float
    low: float
    high: float


class Worth(NamedTuple):
    """`precision`: the probability that an alarm is right, in [0, 1]; the others are one day's counts."""

    precision: Range
    alarms: Range
    false_alarms: Range
    caught: Range
    missed: Range


def worth(law: FalseAlarmLaw, failure_rate: float, traffic: float, caught: int, failures: int) -> Worth:
    """At `traffic` responses a day, from a power measured as `caught` of `failures`.

    Ranges begin with the 99.5% ranges of this calibration set's false-alarm rate and of the power; those of counts hold
    what a day then brings as often, by the binomial law. So those of false alarms and of failures caught or missed hold
    at least 99 times of 100, that of all alarms, as their sum, and that of the precision 98 times.

    Raises CalibrationError on impossible rates or counts.

        >>> from tocsin_calibration import calibrate
        >>> import numpy as np
        >>> law = calibrate(np.random.default_rng(0).normal(size=(1_000, 1))).laws["warning"]
        >>> round(worth(law, failure_rate=0.01, traffic=10_000, caught=80, failures=100).caught.value)  # a day
        80
    """
    if not 0 <= failure_rate <= 1 or traffic < 0:
        raise CalibrationError(
            f"the failure rate must lie in [0, 1] and traffic be 0 or more, not {failure_rate:g} and {traffic:g}"
        )
    if failures < 1:
        raise CalibrationError("power cannot be told from no failures")
    false = Range(law.mean_rate, *law.rate_interval(SURE))
    power = Range(caught / failures, *clopper_pearson(caught, failures, SURE))
    good, bad = traffic * (1 - failure_rate), traffic * failure_rate
    wrong = _day(traffic, Range(*((1 - failure_rate) * f for f in false)))
    right = _day(traffic, Range(*(failure_rate * p for p in power)))
    missed = _day(traffic, Range(*(failure_rate * (1 - p) for p in (power.value, power.high, power.low))))
    return Worth(
        Range(
            _precision(failure_rate, power.value, false.value),
            _precision(failure_rate, power.low, false.high),
            _precision(failure_rate, power.high, false.low),
        ),
        Range(good * false.value + bad * power.value, wrong.low + right.low, wrong.high + right.high),
        wrong,
        right,
        missed,
    )


def _day(traffic: float, rate: Range) -> Range:
    """A day's count at a rate: how far chance takes it at either end of the rate's range."""
    n, tail = round(traffic), (1 - SURE) / 2
    return Range(traffic * rate.value, binomial_quantile(tail, n, rate.low), binomial_quantile(1 - tail, n, rate.high))


def _precision(failure_rate: float, power: float, false_alarms: float) -> float:
    right, wrong = failure_rate * power, (1 - failure_rate) * false_alarms
    return right / (right + wrong) if right + wrong > 0 else float("nan")
