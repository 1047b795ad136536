"""Claims about thresholds, p-values and their law."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, betabinom

from tocsin_calibration import CalibrationError, FalseAlarmLaw, pvalues, required_size, threshold
from tocsin_calibration.thresholds.lookup import pvalue_lookup
from tocsin_calibration.thresholds.split import rank

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite | st.integers(-5, 5).map(float), min_size=1, max_size=60), st.lists(finite, max_size=20))
def test_looking_one_up_is_counting_all_to_the_bit(calibration: list[float], new: list[float]) -> None:
    ordered = np.sort(np.array(calibration))
    lookup = pvalue_lookup(ordered)
    with np.errstate(over="ignore"):
        beside = [np.nextafter(s, way) for s in calibration for way in (-np.inf, np.inf)]
    places = [*calibration, *new, *(s for s in map(float, beside) if np.isfinite(s))]
    assert [lookup(s) for s in places] == pvalues(ordered, places).tolist()


alphas = st.decimals("0.001", "0.999", places=3).map(float)


@given(st.integers(1, 3000), alphas)
def test_the_rank_is_exact_where_binary_fractions_are_not(n: int, alpha: float) -> None:
    exact = math.ceil((n + 1) * (1 - Fraction(str(alpha))))
    if exact > n:
        with pytest.raises(CalibrationError, match=f"at least {required_size(alpha)} are needed"):
            rank(n, alpha)
    else:
        assert rank(n, alpha) == exact


@given(alphas)
def test_the_required_size_is_the_smallest_that_works(alpha: float) -> None:
    n = required_size(alpha)
    assert n == math.ceil(1 / Fraction(str(alpha))) - 1
    if n >= 1:
        assert rank(n, alpha) <= n
    if n > 1:
        with pytest.raises(CalibrationError):
            rank(n - 1, alpha)


@given(st.lists(st.integers(-5, 5), min_size=30, max_size=120), st.integers(-6, 6))
def test_a_score_exceeds_the_threshold_exactly_when_its_pvalue_is_within_alpha(scores: list[int], new: int) -> None:
    alpha = 0.1
    (p,) = pvalues(np.sort(np.array(scores, float)), [new])
    assert (new > threshold(scores, alpha)) == (Fraction(p).limit_denominator(10_000) <= Fraction("0.1"))
    assert p == (1 + sum(s >= new for s in scores)) / (len(scores) + 1)


@pytest.mark.parametrize("bad", [[], [1.0, np.nan], [[1.0], [2.0]], [np.inf] * 100])
def test_scores_that_cannot_be_calibrated_are_refused(bad: list) -> None:
    with pytest.raises(CalibrationError):
        threshold(bad, 0.5)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 2, float("nan")])
def test_alpha_lies_between_0_and_1(alpha: float) -> None:
    with pytest.raises(CalibrationError, match="strictly between 0 and 1"):
        required_size(alpha)


@given(st.integers(20, 2000), st.integers(1, 1000), st.sampled_from([0.05, 0.1, 0.3]))
def test_the_law_is_scipys_beta_binomial_and_beta(n: int, m: int, alpha: float) -> None:
    law = FalseAlarmLaw.at(n, alpha)
    a, b = n + 1 - law.k, law.k
    np.testing.assert_allclose(law.count_pmf(m), betabinom.pmf(np.arange(m + 1), m, a, b), atol=1e-10)
    np.testing.assert_allclose(law.rate_interval(0.99), beta.ppf([0.005, 0.995], a, b), rtol=1e-6)
    assert law.mean_rate == pytest.approx(beta.mean(a, b))
    low, high = law.count_interval(m, 0.99)
    assert betabinom.cdf(high, m, a, b) - betabinom.cdf(low - 1, m, a, b) >= 0.99 - 1e-9


def test_a_rank_outside_the_scores_is_refused() -> None:
    with pytest.raises(CalibrationError):
        FalseAlarmLaw(10, 11)
