"""Claims about the Vendi score, held to its definition and to cases whose value is known."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin_calibration.evaluation.diversity import vendi_score


def test_it_is_the_exponential_of_the_entropy_of_the_kernels_eigenvalues() -> None:
    rows = np.random.default_rng(5).normal(size=(40, 12))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    shares = np.clip(np.linalg.eigvalsh(unit @ unit.T / 40), 1e-300, None)
    assert vendi_score(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert vendi_score(np.vstack([rows, rows])) == pytest.approx(vendi_score(rows))  # copies are nothing new


@pytest.mark.parametrize(
    ("rows", "score"), [(np.eye(7), 7), (np.ones((9, 3)), 1), (np.empty((0, 3)), 0), (np.array([[2.0], [-1.0]]), 1)]
)
def test_known_cases(rows: np.ndarray, score: float) -> None:
    assert vendi_score(rows) == pytest.approx(score)


@pytest.mark.parametrize("row", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_what_has_no_direction_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and not zero"):
        vendi_score(np.array([[1.0, 0.0], row]))
