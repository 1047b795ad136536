"""What an alarm is worth: how often it is right, and how many come a day, at the rate at which failures really happen.

At a failure rate pi, power (the share of failures that alarm) and false-alarm rate alpha, an alarm is right with
probability pi power / (pi power + (1 - pi) alpha). At one failure in a thousand, a perfect detector at alpha = 5% is
right once in 51 alarms; that is arithmetic, not a fault, and better known before than after.
"""

from __future__ import annotations

from typing import NamedTuple

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.thresholds.binomial import clopper_pearson
from tocsin_calibration.thresholds.law import FalseAlarmLaw


class Range(NamedTuple):
    """A figure, and the range it lies in."""

    value: float
    low: float
    high: float


class Worth(NamedTuple):
    """`precision`: the probability that an alarm is right, in [0, 1]; the others are counts a day."""

    precision: Range
    alarms: Range
    false_alarms: Range
    caught: Range
    missed: Range


def worth(law: FalseAlarmLaw, failure_rate: float, traffic: float, caught: int, failures: int) -> Worth:
    """At `traffic` responses a day, from a power measured as `caught` of `failures`.

    Ranges combine the 99% range of this calibration set's false-alarm rate with the exact 99% interval of the power, so
    each holds at least 98 times of 100. Raises CalibrationError on impossible rates or counts.
    """
    if not 0 <= failure_rate <= 1 or traffic < 0:
        raise CalibrationError(
            f"the failure rate must lie in [0, 1] and traffic be 0 or more, not {failure_rate:g} and {traffic:g}"
        )
    if failures < 1:
        raise CalibrationError("power cannot be told from no failures")
    low, high = clopper_pearson(caught, failures)
    false = Range(law.mean_rate, *law.rate_interval())
    power = Range(caught / failures, low, high)
    good, bad = traffic * (1 - failure_rate), traffic * failure_rate
    return Worth(
        Range(
            _precision(failure_rate, power.value, false.value),
            _precision(failure_rate, power.low, false.high),
            _precision(failure_rate, power.high, false.low),
        ),
        Range(*(good * f + bad * p for f, p in zip(false, power, strict=True))),
        Range(*(good * f for f in false)),
        Range(*(bad * p for p in power)),
        Range(bad * (1 - power.value), bad * (1 - power.high), bad * (1 - power.low)),
    )


def _precision(failure_rate: float, power: float, false_alarms: float) -> float:
    right, wrong = failure_rate * power, (1 - failure_rate) * false_alarms
    return right / (right + wrong) if right + wrong > 0 else float("nan")
