"""Claims about the e-value: a fair bet while the promise holds, and quick to grow when it does not."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tocsin_calibration import CalibrationError, FalseAlarmLaw, promise_log_evalue

LAW = FalseAlarmLaw.at(500, 0.05)


@given(st.integers(30, 3_000), st.sampled_from([0.01, 0.05, 0.3]), st.integers(0, 5_000), st.floats(0, 1))
def test_the_next_response_is_a_fair_bet_under_the_promise(n: int, alpha: float, responses: int, share: float) -> None:
    law = FalseAlarmLaw.at(max(n, 100), alpha)
    alarms = round(share * responses)
    p = (law.n + 1 - law.k + alarms) / (law.n + 1 + responses)
    now = promise_log_evalue(law, alarms, responses)
    after = [
        promise_log_evalue(law, alarms + 1, responses + 1) - now,
        promise_log_evalue(law, alarms, responses + 1) - now,
    ]
    assert p * exp(after[0]) + (1 - p) * exp(after[1]) == pytest.approx(1, abs=1e-6)


def test_it_starts_at_one_and_grows_with_alarms() -> None:
    assert promise_log_evalue(LAW, 0, 0) == 0
    grown = [promise_log_evalue(LAW, alarms, 200) for alarms in range(10, 200, 10)]
    assert grown == sorted(grown) and grown[0] < 0.5 < log(100) < grown[-1]


def test_false_pages_stay_within_delta_whenever_one_looks() -> None:
    delta, runs, responses = 0.02, 400, 3_000
    random = np.random.default_rng(6)
    crossed = 0
    for _ in range(runs):
        threshold = np.sort(random.random(LAW.n))[LAW.k - 1]  # one calibration set
        alarms = np.cumsum(random.random(responses) > threshold)
        looks = range(20, responses, 20)
        crossed += any(promise_log_evalue(LAW, int(alarms[t - 1]), t) >= log(1 / delta) for t in looks)
    assert binom.sf(crossed - 1, runs, delta) > 1e-4


@pytest.mark.parametrize(("multiple", "published"), [(3, 92), (5, 25)])
def test_a_broken_promise_is_found_within_half_as_many_responses_again_as_simulated(
    multiple: int, published: int
) -> None:
    random = np.random.default_rng(multiple)
    delays = []
    for _ in range(201):
        alarms = np.cumsum(random.random(4_000) < multiple * 0.05).tolist()
        found = (t for t in range(1, 4_001) if promise_log_evalue(LAW, alarms[t - 1], t) >= log(100))
        delays.append(next(found, 4_000))
    assert np.median(delays) <= 1.5 * published


def test_impossible_counts_are_refused() -> None:
    for alarms, responses in ((-1, 5), (6, 5)):
        with pytest.raises(CalibrationError, match="there cannot be"):
            promise_log_evalue(LAW, alarms, responses)
