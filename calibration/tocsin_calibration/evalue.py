"""Watching a promise: evidence that safe traffic alarms more often than it was promised to.

Against the frozen threshold s_(k) of n calibration scores, the alarms of exchangeable responses form a Polya urn:
P(next alarms | a alarms in t) = (n+1-k+a) / (n+1+t). Under it the sequence's probability depends on (a, t) alone, and
so does that under a Beta-Binomial alternative with a higher rate. Their ratio, mixed over alternatives, is a test
martingale, calibration noise included:

Guarantee: while the promise holds, P(the e-value ever reaches 1/delta) <= delta (Ville 1939), however often it is
looked at. It needs two counters, so replicas may add theirs.
"""

from __future__ import annotations

from math import exp, lgamma, log

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.law import FalseAlarmLaw

MULTIPLES = (1.25, 1.5, 2.0, 3.0, 5.0, 8.0)  # of the promised rate: what the alternatives expect
CONCENTRATION = 50.0  # responses' worth of certainty in each alternative


def promise_log_evalue(law: FalseAlarmLaw, alarms: int, responses: int) -> float:
    """log E after `alarms` in `responses`: 0 at the start, large when there are too many, log(1/delta) to act on.

    Raises CalibrationError unless 0 <= alarms <= responses.
    """
    if not 0 <= alarms <= responses:
        raise CalibrationError(f"there cannot be {alarms} alarms in {responses} responses")
    null = _log_probability(law.n + 1 - law.k, law.k, alarms, responses)
    rates = [m * law.mean_rate for m in MULTIPLES if m * law.mean_rate < 1]
    if not rates:
        return 0.0
    alternatives = [
        _log_probability(CONCENTRATION * r, CONCENTRATION * (1 - r), alarms, responses) - null for r in rates
    ]
    largest = max(alternatives)
    return largest + log(sum(exp(a - largest) for a in alternatives) / len(rates))


def _log_probability(a: float, b: float, alarms: int, responses: int) -> float:
    """log of the probability of one sequence with so many alarms, when the rate is Beta(a, b)."""
    return _log_beta(a + alarms, b + responses - alarms) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
