"""Claims about promises by group, evaluated: by the groups' own laws, all together, and many at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from tocsin_calibration import FalseAlarmLaw, calibrate, evaluate
from tocsin_calibration.evaluation.kept import OTHER_GROUPS, total_law

FAILURE = 1e-4


def many(random: np.random.Generator, rows: int) -> tuple[np.ndarray, list[str]]:
    """Scores (n, 1) of 60 groups that differ in what they score, and of some that are too small."""
    names = random.integers(60, size=rows)
    small = random.random(rows) < 0.05
    scores = random.normal(size=rows) * (1 + names / 40)
    return scores[:, None], [
        f"small {i % 300}" if few else str(n) for i, (n, few) in enumerate(zip(names, small, strict=True))
    ]


@pytest.mark.long
def test_safe_groups_are_called_broken_once_in_two_hundred_evaluations_at_most() -> None:
    """Each by itself at the same tails, one of sixty would be so in every fourth evaluation."""
    runs, broken, total = 30, 0, 0
    for run in range(runs):
        random = np.random.default_rng([21, run])
        scores, groups = many(random, 9_000)
        promise = calibrate(scores, {"warning": 0.1}, groups=groups, seed=run)
        fresh, names = many(random, 6_000)
        evaluation = evaluate(promise, fresh, groups=names)
        assert OTHER_GROUPS in evaluation.groups and len(evaluation.groups) == len(promise.groups) + 1
        broken += any(group.word == "broken" for group in evaluation.groups.values())
        total += evaluation.severities["warning"].word != "kept"
    assert binom.sf(broken - 1, runs, 0.005) > FAILURE / 2
    assert binom.sf(total - 1, runs, 0.01) > FAILURE / 2


def test_responses_without_a_promise_are_not_held_to_one() -> None:
    random = np.random.default_rng(22)
    scores = random.normal(size=(2_010, 1))
    scores[:10] += 10
    promise = calibrate(scores, {"warning": 0.05}, groups=["few"] * 10 + ["many"] * 2_000)
    fresh = random.normal(size=(1_200, 1))
    fresh[:200] += 10
    evaluation = evaluate(promise, fresh, groups=["few"] * 200 + ["many"] * 1_000)
    assert set(evaluation.groups) == {"many"} and evaluation.severities["warning"].n == 1_000
    assert evaluation.severities["warning"].word == "kept"


def test_the_law_of_a_total_is_the_convolution_of_its_parts() -> None:
    laws = [(FalseAlarmLaw.at(40, 0.1), 13), (FalseAlarmLaw.at(99, 0.1), 30), (FalseAlarmLaw.at(19, 0.1), 1)]
    expected = np.ones(1)
    for law, m in laws:
        expected = np.convolve(expected, law.count_pmf(m))
    np.testing.assert_allclose(total_law(laws), expected, atol=1e-14)
