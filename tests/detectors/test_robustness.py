"""Claims that every built-in detector keeps, whatever it is given."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tocsin_detectors import Observations, Scorer, SignalError, compile
from tocsin_detectors.graph import build_graph
from tocsin_detectors.registry import BUILT_IN, find, parse

ROWS = 240
QUICK = {"rnd": ",epochs=3", "logpzo": ",epochs=3", "quantile_aggregation": ",epochs=3"}
QUICK |= {"split_point_regression": ",epochs=3", "split_point_classification": ",epochs=3"}


def example(seed: int = 0) -> dict[str, np.ndarray]:
    """Every signal that some detector reads, of a made-up model that has them all."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(ROWS, 6))
    logits = embedding @ np.random.default_rng(9).normal(size=(6, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    other = rng.dirichlet(np.ones(4), ROWS)
    centre = rng.normal(size=(ROWS, 1))
    actions = centre[:, :, None, None] + 0.1 * rng.normal(size=(ROWS, 5, 4, 2))
    preferences = rng.uniform(size=(ROWS, 4, 4))
    return {
        "embedding": embedding,
        "logits": logits,
        "probs": probs,
        "label": probs.argmax(axis=1),
        "prediction": centre,
        "target": centre + rng.normal(size=(ROWS, 1)),
        "quantiles": centre + np.array([-1.0, 0, 1]),
        "model_quantiles": centre[:, :, None] + np.array([[-1.0, 0, 1], [-2, 0, 2]]),
        "actions": actions,
        "previous_actions": actions + 0.1 * rng.normal(size=actions.shape),
        "token_logprobs": np.log(rng.uniform(0.1, 1, (ROWS, 12))),
        "top_logprobs": np.log(0.9 * -np.sort(-rng.dirichlet(np.ones(4), (ROWS, 12)), axis=2)),
        "tokens": rng.integers(0, 9, (ROWS, 12)),
        "answer_embeddings": rng.normal(size=(ROWS, 3, 6)),
        "answer_logprobs": np.log(rng.uniform(0.1, 1, (ROWS, 3))),
        "answer_tokens": rng.integers(0, 9, (ROWS, 3, 5)),
        "choice_probs": probs,
        "swapped_choice_probs": other,
        "rating_probs": other,
        "preferences": preferences,
        "probs_a": probs,
        "probs_b": other,
        "score": rng.uniform(size=(ROWS, 1)),
    }


SAFE = example()


def needed(name: str) -> dict[str, np.ndarray]:
    detector = find(name)()
    return {signal: SAFE[signal] for signal in (*detector.reads, *getattr(detector, "fits_on", ()))}


def fitted(name: str, signals: dict[str, np.ndarray]) -> Scorer:
    safe = Observations(signals)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Scorer(build_graph([parse(name + QUICK.get(name, "")).fit(safe)], safe))


@pytest.mark.long
@pytest.mark.parametrize("name", BUILT_IN)
def test_scores_are_finite_alone_and_in_batches_and_of_nothing(name: str) -> None:
    scorer = fitted(name, needed(name))
    later = Observations(example(1))
    together = scorer(later)
    assert together.shape == (ROWS, 1) and np.isfinite(together).all()
    alone = np.vstack([scorer(later.take(slice(row, row + 1))) for row in range(10)])
    np.testing.assert_allclose(alone, together[:10], rtol=1e-3, atol=1e-4)
    assert scorer(later.take(slice(0, 0))).shape == (0, 1)
    assert len(np.unique(together)) > 1


@pytest.mark.long
@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_in_fitting_and_shows_in_serving(name: str, bad: float) -> None:
    signals = {signal: values.astype(float) for signal, values in needed(name).items()}
    scorer = fitted(name, signals)
    read = find(name)().reads
    for signal in read:
        broken = {**signals, signal: signals[signal].copy()}
        broken[signal].reshape(ROWS, -1)[7, 1 if signals[signal][0].size > 1 else 0] = bad
        with pytest.raises(
            SignalError, match=rf"'{signal}' holds NaN or infinity in 1 of 240 rows \(the first is row 7"
        ):
            parse(name + QUICK.get(name, "")).fit(Observations(broken))
        scores = scorer(Observations(broken))[:, 0]
        assert not np.isfinite(scores[7]) or signal in scorer.swallowed()
        assert np.isfinite(np.delete(scores, 7)).all()


@pytest.mark.long
@pytest.mark.parametrize("name", BUILT_IN)
def test_integers_and_half_precision_are_taken(name: str) -> None:
    halved = {signal: values.astype(np.float16) for signal, values in needed(name).items()}
    assert np.isfinite(fitted(name, halved)(Observations(example(1)))).all()


@pytest.mark.long
@pytest.mark.parametrize("name", BUILT_IN)
def test_rows_that_are_all_the_same_are_scored_or_refused_in_words(name: str) -> None:
    same = {signal: np.repeat(values[:1], ROWS, axis=0) for signal, values in needed(name).items()}
    try:
        scorer = fitted(name, same)
    except SignalError as error:
        assert "'" in str(error)
    else:
        assert np.isfinite(scorer(Observations(same))).all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_too_few_rows_and_missing_signals_are_refused_in_words(name: str) -> None:
    signals = needed(name)
    with pytest.raises(SignalError):
        parse(name).fit(Observations({signal: values[:1] for signal, values in signals.items()}))
    with pytest.raises(SignalError, match=f"there is no signal '({'|'.join(find(name)().reads)})'"):
        parse(name).fit(Observations({"something_else": SAFE["embedding"]}))


@pytest.mark.parametrize(
    "name", ["mahalanobis", "relative_mahalanobis", "pca_residual", "rnd", "gaussian_mixture", "knn", "vim"]
)
def test_fewer_rows_than_dimensions_are_no_obstacle(name: str) -> None:
    rng = np.random.default_rng(0)
    wide = {"embedding": rng.normal(size=(60, 100)), "logits": rng.normal(size=(60, 4))}
    scorer = fitted(name, wide)
    far = Observations({**wide, "embedding": 10 * rng.normal(size=(60, 100))})
    assert np.isfinite(scorer(far)).all()


@pytest.mark.long
def test_one_graph_of_everything() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = [parse(name + QUICK.get(name, "")) for name in BUILT_IN]
        scorer = compile(every, fit_on=Observations(SAFE))
    assert scorer.detectors == tuple(BUILT_IN)
    assert np.isfinite(scorer(Observations(example(1)))).all()
