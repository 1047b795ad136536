"""Claims about the rest of the family: each score is its formula, written out again by other means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import entropy as scipy_kl
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import normalize

from tocsin_detectors import (
    Detector,
    GeneralisedEntropy,
    KLMatching,
    Margin,
    MaxLogit,
    MaxSoftmax,
    NearestNeighbours,
    Observations,
    PCAResidual,
    SignalError,
    VirtualLogit,
    compile,
)
from tocsin_detectors.graph import build_graph

DIGITS = load_digits()
NETWORK = MLPClassifier((64,), max_iter=800, random_state=0).fit(DIGITS.data[:700] / 16, DIGITS.target[:700])


def shown(images: np.ndarray) -> Observations:
    """What a real classifier of digits shows for these images: probabilities, logits, hidden layer."""
    hidden = np.maximum(images / 16 @ NETWORK.coefs_[0] + NETWORK.intercepts_[0], 0)
    logits = hidden @ NETWORK.coefs_[1] + NETWORK.intercepts_[1]
    return Observations({"probs": softmax(logits, axis=1), "logits": logits, "embedding": hidden})


SAFE, LATER = shown(DIGITS.data[700:1300]), shown(DIGITS.data[1300:])
NOISE = shown(np.random.default_rng(0).integers(0, 17, (400, 64)).astype(float))
P, Z, X = (LATER[name].astype(np.float64) for name in ("probs", "logits", "embedding"))
SAFE_X = SAFE["embedding"].astype(np.float64)


def score(detector: Detector, on: Observations = LATER) -> np.ndarray:
    return compile([detector], fit_on=SAFE)(on)[:, 0]


def kl_matching() -> np.ndarray:
    safe = SAFE["probs"].astype(np.float64)
    usual = [np.maximum(safe[safe.argmax(1) == k].mean(0), 1e-12) for k in np.unique(safe.argmax(1))]
    return np.array([min(scipy_kl(p) * -1 - p @ np.log(d) for d in usual) for p in P])


def gen(gamma: float, classes: int) -> np.ndarray:
    top = np.sort(P)[:, -classes:]
    return (top**gamma * (1 - top) ** gamma).sum(axis=1)


LINE = np.outer(range(9), [1.0, 2.0])


def residual() -> tuple[np.ndarray, np.ndarray]:
    pca = PCA(0.95, svd_solver="full").fit(SAFE_X)

    def outside(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x - pca.inverse_transform(pca.transform(x)), axis=1)

    return outside(X), outside(SAFE_X)


def vim() -> np.ndarray:
    later, safe = residual()
    alpha = SAFE["logits"].astype(np.float64).max(axis=1).mean() / safe.mean()
    return alpha * later - logsumexp(Z, axis=1)


def knn() -> np.ndarray:
    bank = NearestNeighbors(n_neighbors=10).fit(normalize(SAFE_X))
    return bank.kneighbors(normalize(X))[0][:, 9]


@pytest.mark.long
@pytest.mark.parametrize(
    ("detector", "expected", "tolerance"),
    [
        (MaxSoftmax(), lambda: 1 - P.max(axis=1), 1e-6),
        (Margin(), lambda: 1 - (np.sort(P)[:, -1] - np.sort(P)[:, -2]), 1e-6),
        (MaxLogit(), lambda: -Z.max(axis=1), 1e-5),
        (GeneralisedEntropy(), lambda: gen(0.1, 10), 1e-5),
        (GeneralisedEntropy(gamma=0.5, classes=3), lambda: gen(0.5, 3), 1e-5),
        (KLMatching(), kl_matching, 1e-5),
        (PCAResidual(), lambda: residual()[0], 1e-5),
        (VirtualLogit(), vim, 1e-5),
        (NearestNeighbours(), knn, 1e-5),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_score_is_its_formula(detector: Detector, expected: object, tolerance: float) -> None:
    np.testing.assert_allclose(score(detector), expected(), rtol=tolerance, atol=tolerance)  # type: ignore[operator]


@pytest.mark.parametrize(
    "detector",
    [
        MaxSoftmax(), Margin(), MaxLogit(), GeneralisedEntropy(), KLMatching(), PCAResidual(), VirtualLogit(),
        NearestNeighbours(),
    ],
    ids=lambda d: d.name,
)  # fmt: skip
def test_noise_scores_higher_than_digits(detector: Detector) -> None:
    assert np.median(score(detector, NOISE)) > np.median(score(detector))


def test_the_largest_bank_and_the_nearest_neighbour_of_a_safe_response() -> None:
    itself = score(NearestNeighbours(k=1), SAFE)
    assert itself.max() < 2e-3  # every safe embedding is its own nearest neighbour, up to float32
    small = NearestNeighbours(k=3, bank=50)
    assert small.fit(SAFE, seed=4)._bank is not None and len(small._bank) == 50
    np.testing.assert_array_equal(score(NearestNeighbours(bank=50)), score(NearestNeighbours(bank=50)))


def test_an_embedding_of_length_zero_points_nowhere() -> None:
    scorer = compile([NearestNeighbours()], fit_on=SAFE)
    assert np.isnan(scorer.run({"embedding": np.zeros((1, 64), np.float32)})).all()


@pytest.mark.parametrize(
    ("detector", "data", "message"),
    [
        (MaxSoftmax(), {"probs": Z}, "is not a distribution"),
        (Margin(), {"probs": np.ones((5, 1))}, "at least two classes"),
        (MaxLogit(), {"logits": [[np.inf, 1.0], [0.0, 1.0]]}, "NaN or infinity"),
        (NearestNeighbours(), {"embedding": X[:10]}, "more than 10 rows"),
        (NearestNeighbours(), {"embedding": np.vstack([X[:20], np.zeros((1, 64))])}, "has length 0 in row 20"),
        (PCAResidual(), {"embedding": np.ones((30, 4))}, "is the same in every row"),
        (PCAResidual(dimensions=64), {"embedding": X}, "must have 1 to 63 dimensions, not 64"),
        (
            VirtualLogit(dimensions=1),
            {"embedding": LINE, "logits": np.eye(9)},
            "never leaves",
        ),
        (VirtualLogit(), {"embedding": X}, "there is no signal 'logits'"),
    ],
)
def test_data_that_cannot_serve_is_refused_in_words(detector: Detector, data: dict, message: str) -> None:
    with pytest.raises(SignalError, match=message):
        detector.fit(Observations(data))


def test_settings_that_make_no_sense_are_refused() -> None:
    nonsense = ((GeneralisedEntropy, {"gamma": 0}), (NearestNeighbours, {"k": 0}), (NearestNeighbours, {"bank": 5}))
    for detector, setting in nonsense:
        with pytest.raises(ValueError, match="must"):
            detector(**setting)  # type: ignore[arg-type]


def test_what_was_not_fitted_cannot_be_compiled() -> None:
    for detector in (GeneralisedEntropy(), KLMatching(), PCAResidual(), VirtualLogit(), NearestNeighbours()):
        with pytest.raises(SignalError, match="has not been fitted"):
            build_graph([detector], SAFE)
