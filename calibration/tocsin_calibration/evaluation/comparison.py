"""A candidate calibration beside the one in use, before it takes over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.evaluation.by_session import by_session
from tocsin_calibration.evaluation.kept import PromiseCheck, kept_by_severity
from tocsin_calibration.promise import Promise

Float64 = NDArray[np.float64]
DRAWS = 999
MOST = 1 << 17  # calibration scores that are compared; of more as many that stand for all


class Comparison(NamedTuple):
    """Both promises on the same fresh safe responses.

    `unit`: what is promised for. `current`, `candidate`: whether each keeps its promise there. `agree`: the share of
    responses that both decide alike. `shift`: the largest distance between the distributions of the two calibrations'
    nonconformity, as the current one measures it (Kolmogorov-Smirnov, in [0, 1]), and `chance`: how probable as large a
    one is between equal ones, by permutation. `advice` says what follows, in words.
    """

    unit: str
    current: dict[str, PromiseCheck]
    candidate: dict[str, PromiseCheck]
    agree: float
    shift: float
    chance: float
    advice: str


def compare(
    current: Promise,
    candidate: Promise,
    fresh: NDArray[np.floating],
    used: NDArray[np.floating],
    sessions: tuple[Sequence[str], Sequence[str]] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """From scores (n, d) of fresh safe responses that neither was calibrated on, and those (m, d) that made the
    candidate; with the names of both's `sessions` (n,), (m,) where promises are for sessions.

    The advice is to take the candidate when the current one breaks its promise on fresh traffic and the candidate keeps
    it; to keep the current one when both do and nothing has shifted; else to look. Raises CalibrationError when one
    promises for sessions and the other for responses.

        >>> from tocsin_calibration import calibrate
        >>> import numpy as np
        >>> old, new, fresh = np.random.default_rng(0).normal(size=(3, 2_000, 1))
        >>> current, candidate = calibrate(old), calibrate(new)
        >>> compare(current, candidate, fresh, new).advice
        'keep either: both keep their promises, and nothing has shifted that can be told'
    """
    if (current.sessions is None) != (candidate.sessions is None):
        raise CalibrationError(
            f"a promise for {candidate.unit} cannot be compared with one for {current.unit}; calibrate the same kind"
        )
    unit, was, limits = candidate.unit, current.limits, candidate.limits
    if current.sessions is None:
        before, after = current.judge(fresh).severities, candidate.judge(fresh).severities
        now = current.joint(used)
    else:
        names, made_of = (None, None) if sessions is None else sessions
        unit, before, was = by_session(current, fresh, names).promised(current)
        unit, after, limits = by_session(candidate, fresh, names).promised(candidate)
        now = np.array(by_session(current, used, made_of).highest)
    old, new = kept_by_severity(current, before, was), kept_by_severity(candidate, after, limits)
    agree = float(np.mean([a == b for a, b in zip(before, after, strict=False)]))
    shift, chance = _kolmogorov_smirnov(current.nonconformity.spread(MOST), now, np.random.default_rng(seed))
    return Comparison(unit, old, new, agree, shift, chance, _advice(old, new, chance))


def _advice(old: dict[str, PromiseCheck], new: dict[str, PromiseCheck], chance: float) -> str:
    """Which of the two calibrations to use; `chance` is that of scores shifting so by chance."""
    broken = [name for name, check in old.items() if check.word == "broken"]
    worse = [name for name, check in new.items() if check.word == "broken"]
    if worse:
        return f"keep the current calibration: the candidate breaks its {worse[0]} promise on fresh traffic"
    if broken:
        return (
            f"take the candidate, if the fresh traffic is known to be safe: the current calibration breaks its "
            f"{broken[0]} promise there, the candidate keeps it"
        )
    if chance < 0.01:
        return (
            "look: both keep their promises, but scores have shifted since the current calibration was made; the "
            "candidate fits today's traffic"
        )
    return "keep either: both keep their promises, and nothing has shifted that can be told"


def _kolmogorov_smirnov(a: Float64, b: Float64, rng: np.random.Generator) -> tuple[float, float]:
    pooled = np.concatenate([a, b])
    order = np.argsort(pooled, kind="stable")
    last = np.append(np.diff(pooled[order]) > 0, True)  # ties step together
    first = order < len(a)
    observed = _distance(first, last)
    as_far = sum(_distance(rng.permutation(first), last) >= observed - 1e-12 for _ in range(DRAWS))
    return observed, (1 + as_far) / (DRAWS + 1)


def _distance(first: NDArray[np.bool_], last: NDArray[np.bool_]) -> float:
    """Between two distributions: which of the pooled, sorted values are of the first, and where ties end."""
    gap = np.cumsum(first) / first.sum() - np.cumsum(~first) / (~first).sum()
    return float(np.abs(gap[last]).max())
