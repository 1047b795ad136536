"""Claims about power: counts needed by looking at all of them, the law of delays by the watch itself."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from tocsin_calibration import CalibrationError, FalseAlarmLaw, Watch, promise_test
from tocsin_calibration.online.power import FIRST_WINDOW, alarms_needed, delay_law, quantile, simulated
from tocsin_calibration.thresholds.binomial import binomial_cdf, binomial_quantile

LIMIT = log(200)
RUNS, DOUBT = 500, 1e-4


@pytest.mark.parametrize("n, alpha", [(100, 0.05), (600, 0.01), (2000, 0.05), (50, 0.2)])
def test_counts_needed_are_the_least_of_all(n: int, alpha: float) -> None:
    law = FalseAlarmLaw.at(n, alpha)
    test = promise_test(law)
    needed = alarms_needed(law, LIMIT, 300)
    for t in (1, 2, 5, 30, 100, 299, 300):
        enough = [c for c in range(t + 1) if FIRST_WINDOW + test.log_evalue((c, t - c)) >= LIMIT]
        assert needed[t - 1] == (enough[0] if enough else t + 1)


@pytest.mark.parametrize("excess", [1.0, 2.0, 5.0])
def test_the_law_of_delays_is_what_the_watch_does(excess: float) -> None:
    law = FalseAlarmLaw.at(1_000, 0.05)
    rate, horizon = excess * law.mean_rate, 400
    (found_within,) = delay_law(alarms_needed(law, LIMIT, horizon), [rate])
    draw, delays = np.random.default_rng(1), []
    for _ in range(RUNS):
        watch, delay = Watch(promise_test(law), every=10 * horizon), horizon + 1
        for t, alarmed in enumerate(draw.random(horizon) < rate, start=1):
            watch.add((int(alarmed), int(not alarmed)))
            if alarmed and watch.log_evidence() >= LIMIT:  # evidence grows by alarms alone
                delay = t
                break
        delays.append(delay)
    for t in (20, 60, 150, horizon):
        count, chance = sum(delay <= t for delay in delays), float(found_within[t - 1])
        assert binomial_quantile(DOUBT / 8, RUNS, chance) <= count <= binomial_quantile(1 - DOUBT / 8, RUNS, chance)


def test_without_a_limit_on_time_it_is_the_binomial_law() -> None:
    needed = np.full(50, 4)
    (found_within,) = delay_law(needed, [0.1])
    for t in (3, 4, 20, 50):
        assert found_within[t - 1] == pytest.approx(1 - binomial_cdf(3, t, 0.1) if t > 3 else 0.0)
    assert quantile(found_within, 0.5) == 37 and quantile(found_within, 0.9) is None
    with pytest.raises(CalibrationError):
        delay_law(needed, [1.1])


def test_simulated_delays_are_the_same_each_time_and_sorted() -> None:
    law = FalseAlarmLaw.at(2_000, 0.05)
    first = simulated(law, LIMIT, 3.0, 1_000, 11, 2_000)
    assert first == simulated(law, LIMIT, 3.0, 1_000, 11, 2_000)
    detected = [delay for delay in first if delay is not None]
    assert detected == sorted(detected) and first[: len(detected)] == detected
    assert simulated(law, LIMIT, 1.0, 100, 2, 100) == [None, None]
