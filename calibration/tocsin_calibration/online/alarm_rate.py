"""Two tests of a rate of alarms, from two counters: is it higher than promised, and is it far lower than expected?

With n calibration scores and the k-th smallest as threshold, the alarms of exchangeable responses are a Polya urn: the
rate is Beta(n+1-k, k) over calibration sets. For each alternative law of the rate, E(c, t), the probability of c alarms
in t responses under it over that under the null, is a martingale that starts at 1.

**Too many.** E alone is two-sided as soon as the alternative is more pliable than the null: rare alarms then fit it
better, too. So what is held against the promise is F(c, t) = min over c' >= c of E(c', t), which only grows with c.
Guarantee: let every response alarm with a chance of at most the rate of such an urn, whatever came before. Draw the
urn's alarms with the same uniforms: it has c' >= c alarms at any time, so F(c, t) <= F(c', t) <= E(c', t), and
P(F ever reaches 1/delta) <= delta (Ville 1939). Scores that tie are such a case (the urn breaks ties at random), and so
are bad calibration responses and traffic that becomes easier: fewer alarms can never count against the promise.

**Too few.** The alternatives are lower rates whose densities over the null's fall with the rate, so that E itself falls
with c. The null is a lower bound of the rate, ties and all: see `quiet_test`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, lgamma, log, sqrt

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.online.urn import Counts, UrnTest
from tocsin_calibration.thresholds.law import FalseAlarmLaw

# Alternatives of the promise test: multiples of the promised rate, and how much each is trusted beforehand.
# Slight excess and twice the rate have most, since more than that shows soon anyway.
MULTIPLES = ((1.3, 0.2), (1.5, 0.1), (2.0, 0.2), (2.5, 0.15), (3.0, 0.15), (5.0, 0.1), (8.0, 0.1))
SHARES = ((0.5, 0.4), (0.25, 0.3), (0.1, 0.3))  # of the expected rate, the same for the test of too few
CONCENTRATION = 400.0  # responses' worth of certainty in each alternative, at most the null's own
SLIGHT, PRECISE = 1.75, 4000.0  # the multiple below which an alternative is more certain, as it must tell small excess
LEARNT = 0.8  # the trust in a later window's bet that learns from what came before it, where it does
LEAST = 10  # gaps above the threshold from which on windows learn: of fewer, a calm time says little of this set's luck
PLAUSIBLE = -1.64  # standard deviations below the expected count, under which calm is no news of this calibration set
STEP = 1.25  # between the ranks at which too few alarms may be held against the calibration


class RateTest:
    """Evidence from counts (alarms, responses without one) that the rate is higher than the null's, by a Beta null of
    parameters `cells` and rates with their trust as alternatives.

    `learns`: later windows may take the counts before them as news of the null's rate (see `Watch`).
    """

    adds_up = False  # windows are joined by their largest, as bets of different filtrations must be

    def __init__(self, alarms: float, calm: float, rates: Sequence[tuple[float, float]], *, learns: bool) -> None:
        self.cells = (float(alarms), float(calm))
        self.learns = learns
        total = sum(trust for trust, _ in rates) or 1.0
        self._rates = [(log(trust / total), rate) for trust, rate in rates]
        self._mixtures: dict[
            float, list[tuple[float, float, float, float]]
        ] = {}  # by the null's certainty, as far as it bounds theirs

    def log_evalue(self, counts: Counts, before: Counts | None = None) -> float:
        """log F of counts (2,): 0 at the start, large when there are too many alarms, log(1/delta) to act on.

        `before` (2,) are counts that came earlier: what they say of the calibration set's luck is taken up where the
        rate was no lower than the promised one. Raises CalibrationError on negative counts or another number of them.
        """
        alarms, responses = _checked(counts)
        if before is None or not self.learns or self.cells[0] < LEAST or not (earlier := sum(before)):
            return self._log_least_from(self.cells, alarms, responses)
        null, calm = sum(self.cells), self.cells[1]
        mean = earlier * self.cells[0] / null
        fresh = self._log_least_from(self.cells, alarms, responses) + log(1 - LEARNT)
        deviation = sqrt(mean * (calm / null) * (null + earlier) / (null + 1))
        if before[0] - mean < PLAUSIBLE * deviation:
            return fresh  # calmer than calibration explains: that may end, and must not be the measure then
        higher = max(before[0], ceil(mean))
        learnt = (self.cells[0] + higher, calm + earlier - higher)
        return max(fresh, self._log_least_from(learnt, alarms, responses) + log(LEARNT))

    def log_martingale(self, counts: Counts) -> float:
        """log E of counts (2,) under the null, which F never exceeds."""
        alarms, responses = _checked(counts)
        return self._mixed(self.cells, [alarms] * len(self._rates), responses)

    def _log_least_from(self, null: tuple[float, float], alarms: int, responses: int) -> float:
        """log F: the least that log E is with this many alarms or more, by a Beta null of these parameters. For each
        alternative, E falls with the count up to a turning point, and rises from there.
        """
        total = null[0] + null[1]
        at = []
        for _, a, b, _ in self._alternatives(total):
            # E(c+1) - E(c) has the sign of (total - a - b) c - falls.
            falls = null[0] * b - null[1] * a + (responses - 1) * (null[0] - a)
            slope = total - a - b
            turn = falls / slope if slope > 1e-9 else (0.0 if falls <= 0 else float(responses))
            at.append(alarms if turn <= alarms else min(responses, ceil(turn)))
        return self._mixed(null, at, responses)

    def _mixed(self, null: tuple[float, float], at: Sequence[int], responses: int) -> float:
        """log of the alternatives' probabilities over the null's, each at its count, mixed by trust."""
        total = null[0] + null[1]
        common = lgamma(null[0]) + lgamma(null[1]) - lgamma(total) + lgamma(total + responses)
        alternatives, logs = self._alternatives(total), []
        nulls = {count: lgamma(null[0] + count) + lgamma(null[1] + responses - count) for count in set(at)}
        sums = {kappa: lgamma(kappa + responses) for kappa in {a + b for _, a, b, _ in alternatives}}
        for (trust, a, b, constant), count in zip(alternatives, at, strict=True):
            gammas = lgamma(a + count) + lgamma(b + responses - count) - sums[a + b]
            logs.append(trust - constant + gammas - nulls[count])
        return common + _log_sum(logs) if logs else 0.0

    def _alternatives(self, total: float) -> list[tuple[float, float, float, float]]:
        """Of each alternative its trust's log, its two parameters, whose sum is at most `total`, and the log of their
        gammas over that of their sum.
        """
        total = min(PRECISE, total)
        mixture = self._mixtures.get(total)
        if mixture is None:
            slight = SLIGHT * self.cells[0] / sum(self.cells)
            mixture = self._mixtures[total] = []
            for trust, rate in self._rates:
                kappa = min(PRECISE if rate < slight else CONCENTRATION, total)
                a, b = kappa * rate, kappa * (1 - rate)
                mixture.append((trust, a, b, lgamma(a) + lgamma(b) - lgamma(a + b)))
        return mixture


class QuietTest:
    """Evidence from counts (alarms, responses without one) that the rate is lower than any that calibration explains.

    The null is Beta of parameters `cells`; `trust` is what the choice of it leaves of the level.
    """

    def __init__(self, alarms: int, calm: int, trust: float) -> None:
        self.cells = (float(alarms), float(calm))
        self._trust = log(trust)

    def log_evalue(self, counts: Counts) -> float:
        """log of the evidence of counts (2,), large when there are too few alarms, log(1/delta) to act on."""
        alarms, responses = _checked(counts)
        total = sum(self.cells)
        logs = [
            log(trust)
            + _log_ratio((share * self.cells[0], total - share * self.cells[0]), self.cells, alarms, responses)
            for share, trust in SHARES
        ]
        return self._trust + _log_sum(logs)


def promise_test(law: FalseAlarmLaw, *, learns: bool = True) -> RateTest:
    """Whether safe traffic alarms more often than promised: counts are (alarms, responses without one).

    `learns`: the law is exact, as it is when scores do not tie at the threshold, so that later windows may learn.

        >>> from tocsin_calibration import calibrate
        >>> import numpy as np
        >>> law = calibrate(np.random.default_rng(0).normal(size=(1_000, 1))).laws["warning"]
        >>> test = promise_test(law)
        >>> test.log_evalue((200, 800)) > 10  # 200 alarms, 800 responses without one
        True
    """
    rates = [(trust, multiple * law.mean_rate) for multiple, trust in MULTIPLES if multiple * law.mean_rate < 1]
    return RateTest(law.n + 1 - law.k, law.k, rates, learns=learns)


def change_test(law: FalseAlarmLaw) -> UrnTest:
    """What says when a rate began to be higher, from counts (responses without an alarm, alarms): an estimate alone."""
    rates = [(trust, multiple * law.mean_rate) for multiple, trust in MULTIPLES if multiple * law.mean_rate < 1]
    cells = float(law.k), float(law.n + 1 - law.k)
    return UrnTest(cells, [(trust, (CONCENTRATION * (1 - rate), CONCENTRATION * rate)) for trust, rate in rates])


def quiet_test(law: FalseAlarmLaw, above: int) -> QuietTest | None:
    """Whether traffic alarms far less often than calibration lets expect, when `above` of its scores lie above the
    threshold (of those that are safe for sure). None when none does: then no alarm at all is no surprise.

    The rate is at least that of the next higher calibration score as threshold, ties broken at random: Beta(above,
    n+1-above) for a rank fixed beforehand. Which rank that is, ties decide; so ranks are taken from a fixed, coarse
    list, one of which is trusted with half of the level (where nothing ties), all others with the other half together.

    Guarantee: under exchangeability P(evidence ever reaches 1/delta) <= delta, whatever ties.

        >>> from tocsin_calibration import calibrate
        >>> import numpy as np
        >>> law = calibrate(np.random.default_rng(0).normal(size=(1_000, 1))).laws["warning"]
        >>> quiet_test(law, above=30) is not None
        True
    """
    ranks = sorted({int((law.n - law.k) / STEP**power) for power in range(200)} - {0}, reverse=True)
    below = next((rank for rank in ranks if rank <= above), 0)
    if not below:
        return None
    trust = 1.0 if len(ranks) == 1 else 0.5 if below == ranks[0] else 0.5 / (len(ranks) - 1)
    return QuietTest(below, law.n + 1 - below, trust)


def promise_log_evalue(law: FalseAlarmLaw, alarms: int, responses: int) -> float:
    """log F of the promise test after `alarms` in `responses`.

    Raises CalibrationError unless 0 <= alarms <= responses.

        >>> from tocsin_calibration import calibrate
        >>> import numpy as np
        >>> law = calibrate(np.random.default_rng(0).normal(size=(1_000, 1))).laws["warning"]
        >>> promise_log_evalue(law, alarms=200, responses=1_000) > 10
        True
    """
    if not 0 <= alarms <= responses:
        raise CalibrationError(f"there cannot be {alarms} alarms in {responses} responses")
    return promise_test(law).log_evalue((alarms, responses - alarms))


def _log_ratio(alternative: tuple[float, float], null: tuple[float, float], alarms: int, responses: int) -> float:
    return _log_probability(alternative, alarms, responses) - _log_probability(null, alarms, responses)


def _log_probability(beta: tuple[float, float], alarms: int, responses: int) -> float:
    """log of the probability of one sequence with so many alarms when the rate is Beta."""
    a, b = beta
    value = lgamma(a + b) - lgamma(a + b + responses)
    if alarms:
        value += lgamma(a + alarms) - lgamma(a)
    if responses > alarms:
        value += lgamma(b + responses - alarms) - lgamma(b)
    return value


def _log_sum(logs: Sequence[float]) -> float:
    if not logs:
        return 0.0
    largest = max(logs)
    return largest + log(sum(exp(term - largest) for term in logs))


def _checked(counts: Counts) -> tuple[int, int]:
    if len(counts) != 2 or min(counts) < 0:
        raise CalibrationError(f"there must be 2 counts, 0 or more, not {list(counts)}")
    return counts[0], counts[0] + counts[1]
