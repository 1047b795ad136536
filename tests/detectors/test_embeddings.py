"""Claims about detectors of embeddings that learn clusters, classes or flows: each is its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.covariance import ledoit_wolf
from sklearn.ensemble import IsolationForest as SklearnForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from tests.detectors.test_family import DIGITS, LATER, NETWORK, NOISE, SAFE

from tocsin_detectors import GaussianMixture, KMeansDistance, LogpZO, Observations, Scorer, SignalError, compile
from tocsin_detectors.embedding.probe import FOLDS, PENALTIES
from tocsin_detectors.graph import build_graph
from tocsin_detectors.perceptron import Scaling
from tocsin_detectors.registry import parse

X, Z = (LATER[name].astype(np.float64) for name in ("embedding", "logits"))
SAFE_X, SAFE_Z = (SAFE[name].astype(np.float64) for name in ("embedding", "logits"))
LABELLED = Observations({"logits": SAFE["logits"], "label": DIGITS.target[700:1300]})
WRONG = DIGITS.target[700:1300] % 2  # odd digits are taken for wrong answers


def score(spec: str, on: Observations = LATER, safe: Observations = SAFE) -> np.ndarray:
    return compile([parse(spec)], fit_on=safe)(on)[:, 0]


def test_relative_mahalanobis_is_its_formula() -> None:
    top = SAFE_Z.argmax(axis=1)
    means = np.array([SAFE_X[top == k].mean(axis=0) for k in np.unique(top)])
    inside, deviation = SAFE_X - means[np.searchsorted(np.unique(top), top)], SAFE_X.std(axis=0)
    deviation[deviation == 0] = np.median(deviation[deviation > 0])
    spread_within = np.sqrt((inside**2).mean(axis=0))
    spread_within[spread_within == 0] = deviation[spread_within == 0]
    within = ledoit_wolf(inside / spread_within, assume_centered=True)[0] * np.outer(spread_within, spread_within)
    overall = ledoit_wolf(SAFE_X / deviation)[0] * np.outer(deviation, deviation)

    def distance(centre: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        return np.einsum("ij,jk,ik->i", X - centre, np.linalg.inv(covariance), X - centre)

    expected = np.min([distance(m, within) for m in means], axis=0) - distance(SAFE_X.mean(axis=0), overall)
    np.testing.assert_allclose(score("relative_mahalanobis"), expected, rtol=2e-3, atol=2e-2)


def test_she_is_the_product_with_the_stored_pattern() -> None:
    top = SAFE_Z.argmax(axis=1)
    expected = [-x @ SAFE_X[top == z.argmax()].mean(axis=0) for x, z in zip(X, Z, strict=True)]
    np.testing.assert_allclose(score("she"), expected, rtol=1e-4)


def test_react_recovers_the_layer_and_cuts_activations_off() -> None:
    cut = np.minimum(X, np.percentile(SAFE_X, 90))
    expected = -logsumexp(cut @ NETWORK.coefs_[1] + NETWORK.intercepts_[1], axis=1)
    np.testing.assert_allclose(score("react"), expected, rtol=1e-3, atol=1e-3)
    other = Observations({"embedding": SAFE_X, "logits": np.sin(SAFE_Z)})
    with pytest.raises(SignalError, match="'logits' is no linear function of 'embedding'"):
        parse("react").fit(other)


@pytest.mark.long
def test_isolation_forest_is_scikit_learns() -> None:
    forest = SklearnForest(n_estimators=100, max_samples=256, random_state=0).fit(SAFE["embedding"])
    np.testing.assert_allclose(score("isolation_forest"), -forest.score_samples(LATER["embedding"]), rtol=1e-5)


def test_kmeans_distance_is_the_distance_to_the_nearest_centre() -> None:
    detector = KMeansDistance().fit(SAFE)
    assert detector._project is not None
    parts = (X - SAFE_X.mean(axis=0)) @ detector._project
    expected = np.linalg.norm(parts[:, None] - detector._centres, axis=2).min(axis=1)
    np.testing.assert_allclose(score("kmeans_distance"), expected, rtol=1e-3, atol=1e-4)
    assert detector._centres.shape == (64, 10)


def test_gaussian_mixture_is_a_density() -> None:
    rng = np.random.default_rng(0)
    two = np.concatenate([rng.normal([0, 0], [1, 3], (2000, 2)), rng.normal([9, 5], [2, 1], (2000, 2))])
    scorer = compile([GaussianMixture(components=2)], fit_on=Observations({"embedding": two}))
    grid = np.stack(np.meshgrid(np.arange(-8, 20, 0.1), np.arange(-14, 16, 0.1)), axis=-1).reshape(-1, 2)
    density = np.exp(-scorer.run({"embedding": grid.astype(np.float32)})[:, 0].astype(float))
    assert density.sum() * 0.01 == pytest.approx(1, abs=2e-3)
    assert density[np.argmin(((grid - [9, 5]) ** 2).sum(1))] == pytest.approx(0.5 / (2 * np.pi * 2), rel=0.1)


@pytest.mark.long
def test_logpzo_is_what_one_step_of_the_flow_leaves_over() -> None:
    detector = LogpZO(epochs=3).fit(SAFE)
    assert detector._flow is not None
    hidden = torch.from_numpy(LATER["embedding"])
    for weights, bias in detector._flow[:-1]:
        hidden = torch.relu(hidden @ torch.from_numpy(weights) + torch.from_numpy(bias))
    flow = hidden @ torch.from_numpy(detector._flow[-1][0]) + torch.from_numpy(detector._flow[-1][1])
    expected = ((((X - detector._scaling.mean) / detector._scaling.scale) + flow.numpy()) ** 2).sum(axis=1)
    got = Scorer(build_graph([detector], SAFE))(LATER)[:, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    assert np.median(score("logpzo")) < 0.5 * np.median(got)  # it learns


def test_temperature_is_the_most_likely_one() -> None:
    labels = LABELLED["label"][:, 0].astype(int)
    loss = lambda t: -log_softmax(SAFE_Z / t, axis=1)[np.arange(600), labels].mean()  # noqa: E731
    best = minimize_scalar(loss, bounds=(0.05, 100), method="bounded", options={"xatol": 1e-9}).x
    expected = 1 - softmax(Z / best, axis=1).max(axis=1)
    got = score("temperature_scaling", Observations({"logits": Z}), LABELLED)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)
    given = score("temperature_scaling,temperature=2")
    np.testing.assert_allclose(given, 1 - softmax(Z / 2, axis=1).max(axis=1), atol=1e-6)
    with pytest.raises(SignalError, match="there is no signal 'label'; add it, or give a temperature"):
        parse("temperature_scaling").fit(SAFE)


def test_a_probe_is_the_penalised_logistic_regression_of_least_loss_on_held_out_folds() -> None:
    labelled = Observations({"embedding": SAFE_X, "wrong": WRONG})
    scaled = (SAFE_X - SAFE_X.mean(axis=0)) / Scaling.of(labelled, "embedding").scale
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    grid = GridSearchCV(LogisticRegression(max_iter=1000), {"C": PENALTIES}, scoring="neg_log_loss", cv=folds)
    grid.fit(scaled, WRONG)
    later = (X - SAFE_X.mean(axis=0)) / Scaling.of(labelled, "embedding").scale
    got = score("probe", Observations({"embedding": X}), labelled)
    np.testing.assert_allclose(got, grid.decision_function(later), rtol=1e-3, atol=1e-3)


def test_a_probe_does_not_depend_on_the_units_of_dimensions() -> None:
    units = np.geomspace(1e-4, 1e4, SAFE_X.shape[1])
    usual = score("probe", Observations({"embedding": X}), Observations({"embedding": SAFE_X, "wrong": WRONG}))
    other = Observations({"embedding": SAFE_X * units, "wrong": WRONG})
    np.testing.assert_allclose(
        score("probe", Observations({"embedding": X * units}), other), usual, rtol=1e-3, atol=1e-3
    )


@pytest.mark.long
def test_hidden_units_tell_what_no_plane_divides() -> None:
    rng = np.random.default_rng(0)
    corners = rng.choice([-1.0, 1.0], (1200, 2))
    signals = {"embedding": corners + 0.2 * rng.normal(size=corners.shape), "wrong": corners.prod(axis=1) > 0}
    fit_on, held_out = Observations(signals).take(slice(0, 600)), Observations(signals).take(slice(600, 1200))
    wrong = held_out["wrong"][:, 0] == 1
    linear, network = (score(spec, held_out, fit_on) for spec in ("probe", "probe,hidden=16"))
    assert roc_auc_score(wrong, network) > 0.99 > 0.6 > roc_auc_score(wrong, linear)


@pytest.mark.long
@pytest.mark.parametrize(
    "spec",
    ["gaussian_mixture", "isolation_forest", "kmeans_distance", "logpzo", "react", "relative_mahalanobis", "she"],
)
def test_noise_scores_higher_than_digits_and_the_seed_decides(spec: str) -> None:
    scorer = compile([parse(spec)], fit_on=SAFE)
    scores = scorer(LATER)[:, 0]
    assert np.median(scorer(NOISE)[:, 0]) > np.median(scores)
    np.testing.assert_array_equal(score(spec), scores)


@pytest.mark.parametrize(
    ("spec", "data", "message"),
    [
        ("relative_mahalanobis", {"embedding": X, "logits": np.eye(10)[[3] * len(X)]}, "every safe response is of"),
        ("kmeans_distance", {"embedding": X[:20]}, "needs 64 rows"),
        ("gaussian_mixture", {"embedding": X[:9]}, "needs 10 rows"),
        ("react", {"embedding": X[:40], "logits": Z[:40]}, "needs more than 64 rows"),
        ("logpzo", {"embedding": X[:19]}, "at least 20 rows"),
        ("temperature_scaling", {"logits": Z, "label": Z[:, :1]}, "must hold classes 0 to 9"),
        ("isolation_forest", {"embedding": [[np.nan], [1.0]]}, "NaN or infinity"),
        ("probe", {"embedding": X}, "no signal 'wrong'; add one"),
        ("probe", {"embedding": X, "wrong": Z}, "must hold one label a response, not 10"),
        ("probe", {"embedding": X, "wrong": Z[:, :1]}, "must be 1 for a wrong response and 0 for a right one, not"),
        ("probe", {"embedding": X, "wrong": np.arange(len(X)) < 9}, "says that 9 of .* responses are wrong; a probe"),
        ("she", {"embedding": X}, "no signal 'logits'"),
    ],
)
def test_data_that_cannot_serve_is_refused_in_words(spec: str, data: dict, message: str) -> None:
    with pytest.raises(SignalError, match=message):
        parse(spec).fit(Observations(data))
