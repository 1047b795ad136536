"""How soon the promise test finds that a rate is higher than promised, before there is any traffic.

Evidence of the first window is w_1 F(c, t), w_1 = 6/pi^2, and F only grows with the alarms c; so after t responses
there is a least count c*(t) at which it reaches 1/delta. With independent responses that alarm at one rate, the law of
the first time at which c reaches c*(t) follows exactly, one response after the other. Later windows can only find it
sooner.

How soon a change is found that comes after calm traffic depends on all windows, which no such law describes:
`simulated` runs the watch itself, at a fixed seed.
"""

from __future__ import annotations

from math import log, pi

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.online.alarm_rate import promise_test
from tocsin_calibration.online.watch import Watch
from tocsin_calibration.thresholds.law import FalseAlarmLaw

FIRST_WINDOW = log(6 / pi**2)  # log of the trust in it
HORIZON = 20_000  # responses that are looked at
STEP = 20  # responses between looks of a simulation
SEED = 0


def alarms_needed(law: FalseAlarmLaw, limit: float, horizon: int = HORIZON) -> NDArray[np.intp]:
    """The least count of alarms at which the evidence of the first window reaches e^limit, after 1..horizon responses;
    more than there are responses where none does.
    """
    test = promise_test(law)
    needed, count = np.empty(horizon, np.intp), 0
    for t in range(1, horizon + 1):
        # It takes no fewer alarms in more responses, and one more response asks for at most one more of them.
        while count <= t and FIRST_WINDOW + test.log_evalue((count, t - count)) < limit:
            count += 1
        needed[t - 1] = count
    return needed


def delay_law(needed: NDArray[np.intp], rates: ArrayLike) -> NDArray[np.float64]:
    """P(found within t responses) for t = 1..T, `needed` (T,), when each response alarms with the same chance,
    independently: (R, T) for rates (R,). Raises CalibrationError where they are none.
    """
    chances = np.asarray(rates, np.float64)[:, None]
    if not ((chances >= 0) & (chances <= 1)).all():
        raise CalibrationError("a rate lies between 0 and 1")
    counts = np.zeros((len(chances), int(needed.max()) + 2))
    counts[:, 0] = 1.0
    reached, total = np.zeros((len(chances), len(needed))), np.zeros(len(chances))
    top = 1  # counts from here on have no probability
    for at, least in enumerate(needed):
        counts[:, 1 : top + 1] = counts[:, 1 : top + 1] * (1 - chances) + counts[:, :top] * chances
        counts[:, 0] *= 1 - chances[:, 0]
        top += 1
        if top > least:
            total += counts[:, least:top].sum(axis=1)
            counts[:, least:top] = 0.0
            top = int(least)
        reached[:, at] = total
    return reached


def quantile(law: NDArray[np.float64], probability: float) -> int | None:
    """The least number of responses within which it is found with that probability; None beyond the horizon."""
    at = int(np.searchsorted(law, probability, side="left"))
    return at + 1 if at < len(law) else None


def simulated(law: FalseAlarmLaw, limit: float, excess: float, calm: int, runs: int, horizon: int) -> list[int | None]:
    """Responses after a change until the watch's evidence reaches e^limit, sorted, in runs at the fixed seed; None
    beyond the horizon.

    `calm` responses at the expected rate come first, then the rate is `excess` times as high.
    """
    draw = np.random.default_rng(SEED)
    delays: list[int | None] = []
    for _ in range(runs):
        watch = Watch(promise_test(law))
        for _ in range(0, calm, STEP):
            alarms = int(draw.binomial(STEP, law.mean_rate))
            watch.add((alarms, STEP - alarms))
        delays.append(None)
        for responses in range(STEP, horizon + 1, STEP):
            alarms = int(draw.binomial(STEP, min(1.0, excess * law.mean_rate)))
            watch.add((alarms, STEP - alarms))
            if watch.log_evidence() >= limit:
                delays[-1] = responses
                break
    return sorted(delays, key=lambda delay: horizon + 1 if delay is None else delay)
