"""Claims about each detector: its score is its formula, and rises when it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.datasets import load_digits, load_wine

from tocsin_detectors import (
    Detector,
    DetectorError,
    Energy,
    Entropy,
    GraphError,
    Mahalanobis,
    Observations,
    RandomNetworkDistillation,
    Scorer,
    SignalError,
    compile,
)
from tocsin_detectors.graph import build_graph
from tocsin_detectors.moments import shrunk_whitening

PIXELS = load_digits().data.astype(np.float32)
LOGITS = (PIXELS[:, 10:20] - 8).astype(np.float32)
PROBS = torch.softmax(torch.from_numpy(LOGITS), dim=1).numpy()
SAFE = Observations({"probs": PROBS, "logits": LOGITS, "embedding": PIXELS}).take(slice(0, 600))
LATER = Observations({"probs": PROBS, "logits": LOGITS, "embedding": PIXELS}).take(slice(600, 900))


def score(detector: Detector, on: Observations = LATER, safe: Observations = SAFE) -> np.ndarray:
    return compile([detector], fit_on=safe)(on)[:, 0]


def test_entropy_is_torchs() -> None:
    expected = torch.distributions.Categorical(torch.from_numpy(LATER["probs"])).entropy().numpy()
    np.testing.assert_allclose(score(Entropy()), expected, rtol=1e-5, atol=1e-6)


def test_entropy_knows_its_ends_and_what_is_no_distribution() -> None:
    rows = np.zeros((4, 10), np.float32)
    rows[0, 3] = 1
    rows[1] = 0.1
    rows[3] = [-0.5, 1.5, 0, 0, 0, 0, 0, 0, 0, 0]
    scorer = compile([Entropy()], fit_on=SAFE)
    sure, unsure, nothing, negative = scorer.run({"probs": rows})[:, 0]
    assert sure == pytest.approx(0, abs=1e-6)
    assert unsure == pytest.approx(np.log(10), rel=1e-6)
    assert np.isnan(nothing) and np.isnan(negative)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_energy_is_torchs_log_sum_exp(temperature: float) -> None:
    expected = -temperature * torch.logsumexp(torch.from_numpy(LATER["logits"]) / temperature, dim=1).numpy()
    np.testing.assert_allclose(score(Energy(temperature=temperature)), expected, rtol=1e-5)


def test_energy_of_huge_logits_does_not_overflow() -> None:
    scorer = compile([Energy()], fit_on=SAFE)
    got = scorer.run({"logits": np.full((1, 10), 5000, np.float32)})[0, 0]
    assert got == pytest.approx(-(5000 + np.log(10)), rel=1e-5)


def shrunk_on_the_correlation_scale(data: np.ndarray) -> np.ndarray:
    """scikit-learn's estimate of columns divided by their deviations, or by the median one where they are constant."""
    units = data.std(axis=0)
    units[units == 0] = np.median(units[units > 0])
    return sklearn_ledoit_wolf(data / units)[0] * np.outer(units, units)


def test_mahalanobis_is_its_formula_with_shrunk_covariance() -> None:
    safe = SAFE["embedding"].astype(np.float64)
    covariance = shrunk_on_the_correlation_scale(safe)
    difference = LATER["embedding"] - safe.mean(axis=0)
    expected = np.einsum("ij,jk,ik->i", difference, np.linalg.inv(covariance), difference)
    np.testing.assert_allclose(score(Mahalanobis()), expected, rtol=2e-3)


@pytest.mark.parametrize("data", [load_wine().data, PIXELS[:30], PIXELS], ids=["wine", "fewer rows", "digits"])
def test_ledoit_wolf_is_scikit_learns(data: np.ndarray) -> None:
    data = data.astype(np.float64)
    expected = np.linalg.inv(shrunk_on_the_correlation_scale(data))
    mean = data.mean(axis=0)
    white = shrunk_whitening([data - mean], mean, "x")
    np.testing.assert_allclose(white @ white.T, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


def test_rnd_is_the_distance_between_its_two_networks() -> None:
    detector = RandomNetworkDistillation(epochs=5).fit(SAFE)

    def through(layers: list[tuple[np.ndarray, np.ndarray]], x: torch.Tensor) -> torch.Tensor:
        for weights, bias in layers[:-1]:
            x = torch.relu(x @ torch.from_numpy(weights) + torch.from_numpy(bias))
        return x @ torch.from_numpy(layers[-1][0]) + torch.from_numpy(layers[-1][1])

    x = torch.from_numpy(LATER["embedding"])
    expected = (through(detector._predictor, x) - through(detector._target, x)).norm(dim=1).numpy()
    got = Scorer(build_graph([detector], SAFE))(LATER)[:, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.long
def test_rnd_learns_the_safe_data_and_the_same_seed_learns_the_same() -> None:
    trained, untrained = score(RandomNetworkDistillation()), score(RandomNetworkDistillation(epochs=1))
    assert np.median(trained) < 0.5 * np.median(untrained)
    np.testing.assert_array_equal(score(RandomNetworkDistillation()), trained)
    other = compile([RandomNetworkDistillation()], fit_on=SAFE, seed=1)(LATER)[:, 0]
    assert not np.allclose(other, trained)


def test_fitting_leaves_torchs_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    RandomNetworkDistillation(epochs=1).fit(SAFE)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.long
@pytest.mark.parametrize("detector", [Mahalanobis(), RandomNetworkDistillation()], ids=lambda d: d.name)
def test_what_is_far_from_safe_embeddings_scores_higher(detector: Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 17, (300, 64)).astype(np.float32)
    scorer = compile([detector], fit_on=SAFE)
    safe, strange = scorer(LATER)[:, 0], scorer.run({"embedding": noise})[:, 0]
    assert strange.min() > np.quantile(safe, 0.99)


@pytest.mark.long
def test_a_constant_dimension_that_moves_is_noticed() -> None:
    safe = SAFE["embedding"].copy()
    safe[:, 0] = 0
    moved = LATER["embedding"].copy()
    moved[:, 0] = 30
    still = moved.copy()
    still[:, 0] = 0
    for detector in (Mahalanobis(), RandomNetworkDistillation()):
        scorer = compile([detector], fit_on=Observations({"embedding": safe}))
        assert np.median(scorer.run({"embedding": moved})) > 1.5 * np.median(scorer.run({"embedding": still}))


def test_all_detectors_make_one_graph_with_one_column_each() -> None:
    detectors = [Entropy(), Energy(), Mahalanobis(), RandomNetworkDistillation(epochs=3)]
    scorer = compile(detectors, fit_on=SAFE)
    assert scorer.detectors == ("entropy", "energy", "mahalanobis", "rnd")
    assert scorer.signals == {"probs": 10, "logits": 10, "embedding": 64}
    together = scorer(LATER)
    for column, detector in enumerate(detectors):
        np.testing.assert_allclose(together[:, column], score(detector), rtol=1e-5, atol=1e-6)


def test_scores_do_not_depend_on_the_batch() -> None:
    scorer = compile([Entropy(), Mahalanobis(), RandomNetworkDistillation(epochs=3)], fit_on=SAFE)
    together = scorer(LATER)
    alone = np.vstack([scorer(LATER.take(slice(row, row + 1))) for row in range(40)])
    np.testing.assert_allclose(alone, together[:40], rtol=2e-4, atol=1e-5)
    assert scorer(LATER.take(slice(0, 0))).shape == (0, 3)


def test_the_same_detector_on_two_signals_gets_two_names() -> None:
    safe = Observations({"a": PIXELS[:100], "b": PIXELS[100:200]})
    assert compile([Mahalanobis("a"), Mahalanobis("b")], fit_on=safe).detectors == ("mahalanobis:a", "mahalanobis:b")
    with pytest.raises(DetectorError, match="twice on the same signal"):
        compile([Mahalanobis("a"), Mahalanobis("a")], fit_on=safe)


BROKEN = np.array([[0.5, 0.5], [np.nan, 0.5], [0.1, 0.9]])


@pytest.mark.parametrize(
    ("detector", "data", "message"),
    [
        (Entropy(), {"probs": LOGITS[:50]}, "is not a distribution in"),
        (Entropy(), {"probs": np.ones((5, 1))}, "at least two classes"),
        (Entropy(), {"probs": BROKEN}, r"NaN or infinity in 1 of 3 rows \(the first is row 1\)"),
        (Entropy(), {"logits": LOGITS}, r"there is no signal 'probs'; there is logits \(width 10\)"),
        (Energy(), {"logits": PROBS[:50]}, "holds probabilities, which have lost"),
        (Mahalanobis(), {"embedding": np.ones((30, 4))}, "is the same in every row"),
        (Mahalanobis(), {"embedding": np.ones((1, 4))}, "has 1 rows; fitting needs at least 2"),
        (RandomNetworkDistillation(), {"embedding": np.ones((30, 4))}, "is the same in every row"),
        (RandomNetworkDistillation(), {"embedding": PIXELS[:19]}, "at least 20 rows"),
    ],
)
def test_data_that_cannot_serve_is_refused_in_words(detector: Detector, data: dict, message: str) -> None:
    with pytest.raises(SignalError, match=message):
        detector.fit(Observations(data))


def test_observations_take_what_numpy_reads_and_refuse_the_rest() -> None:
    observations = Observations({"image": np.zeros((5, 8, 8), np.float16), "one": [1, 2, 3, 4, 5]})
    assert observations["image"].shape == (5, 64) and observations["image"].dtype == np.float32
    assert observations["one"].shape == (5, 1) and observations.rows == 5 and list(observations) == ["image", "one"]
    for signals, message in (
        ({}, "there are no signals"),
        ({"a": ["x", "y"]}, "a detector reads numbers"),
        ({"a": 3}, "is a single number"),
        ({"a": np.zeros((3, 0))}, "rows of width 0"),
        ({"a": [1, 2], "b": [1, 2, 3]}, "a has 2, b has 3"),
    ):
        with pytest.raises(SignalError, match=message):
            Observations(signals)


def test_a_scorer_refuses_other_widths_and_other_graphs() -> None:
    scorer = compile([Mahalanobis()], fit_on=SAFE)
    with pytest.raises(SignalError, match="has width 10, but the detectors were fitted on 64"):
        scorer(Observations({"embedding": LOGITS}))
    with pytest.raises(GraphError, match="cannot load"):
        Scorer(b"no graph")


def test_a_temperature_must_be_positive_and_there_must_be_detectors() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Energy(temperature=0)
    with pytest.raises(DetectorError, match="at least one detector"):
        compile([], fit_on=SAFE)
    for unfitted in (Mahalanobis(), RandomNetworkDistillation()):
        with pytest.raises(SignalError, match="has not been fitted"):
            build_graph([unfitted], SAFE)


def test_a_nan_or_infinity_anywhere_shows_in_the_scores_or_the_scorer_says_that_it_may_not() -> None:
    import spox.opset.ai.onnx.v18 as op

    class Deaf:
        name, source, reads = "deaf", "a test", ("logits",)

        def fit(self, safe: Observations, *, seed: int = 0) -> Deaf:
            return self

        def graph(self, *signals: object) -> object:
            first = op.slice(signals[0], op.const(np.array([0])), op.const(np.array([1])), op.const(np.array([1])))
            return first

    family = [Entropy(), Energy(), Mahalanobis(), RandomNetworkDistillation(epochs=2)]
    assert compile(family, fit_on=SAFE).swallowed() == []
    assert compile([Entropy(), Deaf()], fit_on=SAFE).swallowed() == ["logits"]
    wide = Observations({"embedding": np.random.default_rng(0).normal(size=(400, 600))})
    assert compile([Mahalanobis()], fit_on=wide).swallowed() == []
