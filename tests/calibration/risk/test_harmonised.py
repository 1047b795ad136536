"""Claims about risk from several weak sources: on real data, against majority vote and single sources."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from tocsin_calibration import CalibrationError, harmonise
from tocsin_detectors.separation import auroc


def weak_sources(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits, what a model and three weak labellers say of them, and the truth. The first source is the model."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.data))
    x, y = data.data[order] / 16, data.target[order]
    few, rest = slice(0, 60), slice(60, None)
    halves = [np.arange(32), np.arange(32, 64), np.arange(0, 64, 2)]
    model = LogisticRegression(max_iter=500).fit(x[few], y[few]).predict(x[rest])
    others = [
        GaussianNB(var_smoothing=0.1).fit(x[few][:, halves[0]], y[few]).predict(x[rest][:, halves[0]]),
        KNeighborsClassifier(1).fit(x[few][:, halves[1]], y[few]).predict(x[rest][:, halves[1]]),
        KNeighborsClassifier(3).fit(x[few][:, halves[2]], y[few]).predict(x[rest][:, halves[2]]),
    ]
    said = np.stack([model, *others], axis=1)
    said[np.random.default_rng(seed).random(said.shape) < [0, 0.2, 0.2, 0.2]] = -1
    return x[rest], said, y[rest]


@pytest.mark.long
@pytest.mark.parametrize("scalarisation", ["linear", "quadratic", "chebyshev"])
def test_it_tells_the_models_errors_better_than_a_vote_or_a_single_source(scalarisation: str) -> None:
    gains = []
    for seed in range(3):
        x, said, truth = weak_sources(seed)
        wrong = said[:, 0] != truth
        risk = harmonise(x, said, 10, scalarisation).risk(x, said[:, 0])  # type: ignore[arg-type]
        others = said[:, 1:]
        spoke = np.maximum(1, (others >= 0).sum(axis=1))
        vote = ((others != said[:, :1]) & (others >= 0)).sum(axis=1) / spoke
        singles = [np.where(source < 0, 0.5, source != said[:, 0]) for source in others.T]
        ours = auroc(risk[~wrong], risk[wrong])
        gains.append((ours - auroc(vote[~wrong], vote[wrong]), *(ours - auroc(s[~wrong], s[wrong]) for s in singles)))
    assert np.mean(gains, axis=0).min() > 0


@pytest.mark.long
def test_probabilities_are_distributions_and_the_fit_is_the_same_each_time() -> None:
    x, said, _ = weak_sources(0)
    first, second = (harmonise(x, said, 10).probabilities(x[:50]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.min() >= 0 and first.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("sources", "more", "message"),
    [
        ([[0, 12]], {}, r"answers 0\.\.9, or -1"),
        ([[0, -1]], {}, "source 1 abstains from everything"),
        ([[0, 1], [1, 1]], {}, "are needed"),
        ([[0, 1]], {"scalarisation": "sum"}, "losses are scalarised as"),
    ],
)
def test_sources_that_say_nothing_usable_are_refused(sources: list, more: dict, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        harmonise(np.zeros((1, 3)), np.array(sources), 10, **more)
