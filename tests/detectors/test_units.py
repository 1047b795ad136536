"""Claims about the units of an embedding's columns: to detectors that say so, they make no difference."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.metrics import roc_auc_score

from tocsin_detectors import Observations, SignalError, compile
from tocsin_detectors.registry import parse

WITHOUT_UNITS = [
    "mahalanobis",
    "relative_mahalanobis",
    "gaussian_mixture",
    "isolation_forest",
    "rnd,epochs=3",
    "logpzo,epochs=3",
]
X, CLASSES = load_wine(return_X_y=True)  # columns from 0.1 to 1,000


def scored(spec: str, units: np.ndarray, safe: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Scores of later rows, all columns in other units."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(len(X), 3))
    shown = [Observations({"embedding": X[rows] * units, "logits": logits[rows]}) for rows in (safe, later)]
    return compile([parse(spec)], fit_on=shown[0])(shown[1])[:, 0]


def units(seed: int, base: float, most: float) -> np.ndarray:
    """Factors for the columns, from base^-most to base^most."""
    power = np.random.default_rng(seed).permutation(np.linspace(-most, most, X.shape[1]))
    return base ** (np.round(power) if base == 2 else power)


@pytest.mark.parametrize("spec", WITHOUT_UNITS)
def test_scores_are_the_same_in_any_units(spec: str) -> None:
    safe, later = np.arange(0, len(X), 2), np.arange(1, len(X), 2)
    before = scored(spec, np.ones(X.shape[1]), safe, later)
    # Powers of two change no digit of a float: then not one of a score either.
    np.testing.assert_array_equal(scored(spec, units(1, 2.0, 10), safe, later), before)


@pytest.mark.parametrize("spec", ["mahalanobis", "relative_mahalanobis"])
@pytest.mark.parametrize("safe_class", [0, 1, 2])
def test_what_is_told_apart_is_the_same_in_any_units(spec: str, safe_class: int) -> None:
    inside = np.flatnonzero(safe_class == CLASSES)
    safe, later = inside[::2], np.r_[inside[1::2], np.flatnonzero(safe_class != CLASSES)]
    strange = CLASSES[later] != safe_class
    before = scored(spec, np.ones(X.shape[1]), safe, later)
    for seed in range(3):
        after = scored(spec, units(seed, 10.0, 3), safe, later)
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3 * np.median(np.abs(before)))
        assert roc_auc_score(strange, after) == pytest.approx(roc_auc_score(strange, before), abs=1e-3)


def test_mahalanobis_tells_wines_apart_although_one_column_is_a_thousand_times_the_others() -> None:
    inside = np.flatnonzero(CLASSES == 1)
    safe, later = inside[::2], np.r_[inside[1::2], np.flatnonzero(CLASSES != 1)]
    area = roc_auc_score(CLASSES[later] != 1, scored("mahalanobis", np.ones(X.shape[1]), safe, later))
    assert area > 0.9  # shrunk towards a multiple of the identity: 0.77


def test_a_column_that_only_rounds_is_none_that_moves() -> None:
    random = np.random.default_rng(2)
    rows = random.normal(size=(200, 3))
    rows[:, 2] = np.float32(1000) * (1 + 6e-8 * random.integers(-1, 2, 200))
    scorer = compile([parse("mahalanobis")], fit_on=Observations({"embedding": rows[:100]}))
    assert scorer(Observations({"embedding": rows[100:]})).max() < 100
    with pytest.raises(SignalError, match="the same in every row"):
        parse("mahalanobis").fit(Observations({"embedding": np.tile([1e6, 1e-6], (50, 1))}))
