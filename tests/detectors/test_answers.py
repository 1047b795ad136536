"""Claims about detectors of answers, judges, modalities and regressions: each is its definition."""

from __future__ import annotations

from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from tests.detectors.scoring import by_row, score

from tocsin_detectors import Observations, Scorer, SignalError, compile
from tocsin_detectors.graph import build_graph
from tocsin_detectors.registry import parse

RNG = np.random.default_rng(3)
# Answers: (n, S, D)
CENTRES = np.eye(16)[:4]


def answers(meanings: list[int], noise: float = 0.05) -> np.ndarray:
    return CENTRES[meanings] + noise * np.random.default_rng(len(set(meanings))).normal(size=(len(meanings), 16)) / 4


SAID = np.array(
    [answers([0] * 6), answers([0, 0, 0, 1, 1, 1]), answers([0, 1, 2, 3, 0, 1]), answers([2, 2, 2, 2, 2, 3])]
)
SAID_MEANS = [[6], [3, 3], [2, 2, 1, 1], [5, 1]]


def test_semantic_entropy_counts_meanings() -> None:
    got = score("semantic_entropy", answer_embeddings=SAID)
    np.testing.assert_allclose(got, [entropy(counts) for counts in SAID_MEANS], atol=1e-6)


def test_answers_linked_through_others_mean_the_same() -> None:
    angles = np.arange(6) * 0.5  # neighbours have cosine 0.88, the ends none
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1)[None]
    rows = np.concatenate([chain, chain[:, [0, 0, 0, 5, 5, 5]]])
    np.testing.assert_allclose(score("semantic_entropy", answer_embeddings=rows), [0, np.log(2)], atol=1e-6)


def test_embedding_disagreement_and_eigenvalue_dispersion_are_their_formulas() -> None:
    unit = SAID / np.linalg.norm(SAID, axis=2, keepdims=True)
    cosines = unit @ unit.transpose(0, 2, 1)
    off = 1 - (cosines.sum(axis=(1, 2)) - 6) / 30
    np.testing.assert_allclose(score("embedding_disagreement", answer_embeddings=SAID), off, atol=1e-5)
    eigen = by_row(lambda k: -np.log((np.linalg.eigvalsh(k / 6) ** 2).sum()), cosines)
    got = score("eigenvalue_dispersion", answer_embeddings=SAID)
    np.testing.assert_allclose(got, eigen, atol=1e-5)
    assert got[0] < got[3] < got[1] < got[2]


def test_predictive_entropy_is_the_mean() -> None:
    logs = np.log(RNG.uniform(0.01, 1, (9, 5)))
    np.testing.assert_allclose(score("predictive_entropy", answer_logprobs=logs), -logs.mean(axis=1), rtol=1e-5)
    with pytest.raises(SignalError, match="at most 0"):
        score("predictive_entropy", answer_logprobs=-logs)


def test_lexical_disagreement_is_one_minus_jaccard_at_any_length() -> None:
    said = [[RNG.integers(0, 9, RNG.integers(0, 12)) for _ in range(4)] for _ in range(20)]
    tokens = np.full((20, 4, 12), -1.0, np.float32)
    for row, samples in enumerate(said):
        for at, words in enumerate(samples):
            tokens[row, at, : len(words)] = words

    def jaccard(a: np.ndarray, b: np.ndarray) -> float:
        union = set(a) | set(b)
        return len(set(a) & set(b)) / len(union) if union else 1.0

    expected = [1 - np.mean([jaccard(a, b) for a, b in combinations(samples, 2)]) for samples in said]
    rows = Observations({"answer_tokens": tokens})
    scorer = compile([parse("lexical_disagreement")], fit_on=rows)
    np.testing.assert_allclose(scorer(rows)[:, 0], expected, atol=1e-5)
    shorter = np.full((1, 4, 3), -1.0, np.float32)
    shorter[0, :, 0] = [5, 5, 5, 7]
    assert scorer.run({"answer_tokens": shorter.reshape(1, -1)})[0, 0] == pytest.approx(0.5)


# Judges
def test_abstain_mass_and_judges_ratings() -> None:
    probs = RNG.dirichlet(np.ones(4), 30)
    np.testing.assert_allclose(score("abstain_mass", choice_probs=probs), probs[:, 3], rtol=1e-5)
    np.testing.assert_allclose(score("abstain_mass,choice=1", choice_probs=probs), probs[:, 1], rtol=1e-5)
    expected = 4 - probs @ np.arange(1, 5)
    np.testing.assert_allclose(score("judge_expectation", rating_probs=probs), expected, rtol=1e-4)
    np.testing.assert_allclose(score("judge_entropy", rating_probs=probs), entropy(probs, axis=1), rtol=1e-4)
    with pytest.raises(SignalError, match="has 4 choices; there is no choice 4"):
        score("abstain_mass,choice=4", choice_probs=probs)


def test_order_swap_is_zero_for_a_judge_that_looks_at_answers_and_large_for_one_that_looks_at_places() -> None:
    probs = RNG.dirichlet(np.ones(3), 30)
    fair, biased = probs[:, [1, 0, 2]], probs
    np.testing.assert_allclose(score("order_swap", choice_probs=probs, swapped_choice_probs=fair), 0, atol=1e-6)
    got = score("order_swap", choice_probs=probs, swapped_choice_probs=biased)
    np.testing.assert_allclose(got, np.abs(probs[:, 0] - probs[:, 1]), atol=1e-6)


def test_transitivity_counts_the_triples_that_no_ranking_explains() -> None:
    levels = {0.5: 0, 0.9: 1, 0.1: -1}
    matrices, shares = [], []
    for ways in product([0.5, 0.9, 0.1], repeat=6):
        relation = {}
        matrix = np.full((4, 4), 0.5)
        for (i, j), p in zip(combinations(range(4), 2), ways, strict=True):
            matrix[i, j], matrix[j, i] = p, 1 - p
            relation[i, j], relation[j, i] = levels[p], -levels[p]
        broken = 0
        for triple in combinations(range(4), 3):
            broken += any(
                relation[i, j] >= 0 and relation[j, k] >= 0 and relation[i, k] < max(relation[i, j], relation[j, k])
                for i, j, k in permutations(triple)
            )
        matrices.append(matrix)
        shares.append(broken / 4)
    np.testing.assert_allclose(score("transitivity", preferences=np.array(matrices)), shares, atol=1e-6)
    assert max(shares) == 1 and min(shares) == 0


# Modalities
def test_modality_discrepancy_is_its_formula() -> None:
    p, q = (softmax(2 * RNG.normal(size=(60, 5)), axis=1) for _ in range(2))
    signals = {"probs_a": p, "probs_b": q}
    np.testing.assert_allclose(score("modality_discrepancy", **signals), np.abs(p - q).sum(1), rtol=1e-4)
    hellinger = np.linalg.norm(np.sqrt(p) - np.sqrt(q), axis=1) / np.sqrt(2)
    np.testing.assert_allclose(score("modality_discrepancy,hellinger=true", **signals), hellinger, rtol=1e-4)

    def without_top(a: np.ndarray, b: np.ndarray) -> float:
        if a.argmax() == b.argmax():
            a, b = np.delete(a, a.argmax()), np.delete(b, b.argmax())
        return np.abs(a / a.sum() - b / b.sum()).sum()

    got = score("modality_discrepancy,without_top=true", **signals)
    np.testing.assert_allclose(got, by_row(without_top, p, q), rtol=1e-4)
    np.testing.assert_allclose(score("modality_discrepancy", probs_a=p, probs_b=p), 0, atol=1e-6)


# Regression
def heteroscedastic(n: int, seed: int) -> dict[str, np.ndarray]:
    """A prediction that is the mean, around which errors are uneven, as a function of x in [-1, 1]."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2))
    scale = 1 + x[:, :1]
    return {"embedding": x, "prediction": x[:, 1:], "target": x[:, 1:] + scale * (rng.exponential(size=(n, 1)) - 1)}


@pytest.mark.long
def test_split_point_heads_learn_the_harmonic_identity_and_break_it_off_the_data() -> None:
    safe = Observations(heteroscedastic(6000, 0))
    detector = parse("split_point_regression,epochs=60").fit(safe)
    scorer = Scorer(build_graph([detector], safe))
    assert scorer.signals == {"embedding": 2}
    later = scorer(Observations(heteroscedastic(500, 1)))[:, 0]
    away = scorer(Observations({"embedding": 8 * heteroscedastic(500, 2)["embedding"]}))[:, 0]
    # Errors of Exp(1) - 1 have a = 1, b = e - 2 over 1 - 1/e, m = 2/e, and scale with 1 + x.
    assert np.median(later) < 0.1
    assert np.median(away) > 3 * np.median(later)


def test_split_point_scores_are_their_formulas() -> None:
    signals = {**heteroscedastic(200, 3), "probs": np.random.default_rng(0).dirichlet([1, 2, 3], 200)}
    rows = Observations({**signals, "label": signals["probs"].argmax(axis=1)})

    def head(layers: list, x: np.ndarray) -> np.ndarray:
        for weights, bias in layers[:-1]:
            x = np.maximum(x @ weights + bias, 0)
        return x @ layers[-1][0] + layers[-1][1]

    regression: Any = parse("split_point_regression,epochs=5").fit(rows)
    m, above, below = (np.log1p(np.exp(head(layers, rows["embedding"]))) for layers in regression._heads)
    expected = np.abs(2 * above * below - m * (above + below))[:, 0] * regression._unit**2
    np.testing.assert_allclose(Scorer(build_graph([regression], rows))(rows)[:, 0], expected, rtol=1e-3, atol=1e-6)
    classification: Any = parse("split_point_classification,epochs=5").fit(rows)
    learnt, p = 1 / (1 + np.exp(-head(classification._head, rows["embedding"]))), rows["probs"]
    expected = np.abs(learnt - 2 * p * (1 - p)).sum(axis=1)
    np.testing.assert_allclose(Scorer(build_graph([classification], rows))(rows)[:, 0], expected, rtol=1e-4)


@pytest.mark.long
def test_split_point_classification_sees_overconfidence() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3))
    true = softmax(2 * x, axis=1)
    label = (true.cumsum(axis=1) > rng.uniform(size=(4000, 1))).argmax(axis=1)
    sharp = softmax(6 * x, axis=1)
    honest = score("split_point_classification,epochs=60", embedding=x, probs=true, label=label)
    boastful = score("split_point_classification,epochs=60", embedding=x, probs=sharp, label=label)
    assert np.median(boastful) > 2 * np.median(honest)
    with pytest.raises(SignalError, match="must hold one class a response, 0 to 2"):
        score("split_point_classification", embedding=x, probs=true, label=label + 1)


@pytest.mark.long
def test_interval_width_and_aggregated_quantiles() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=(3000, 1))
    levels = np.array([-1.645, 0, 1.645])
    good, wild = np.tile(levels, (3000, 1)), np.tile(5 * levels + 3, (3000, 1))
    np.testing.assert_allclose(score("interval_width", quantiles=good), 3.29, rtol=1e-4)
    rows = Observations({"model_quantiles": np.stack([good, wild], axis=1), "target": y})
    got = compile([parse("quantile_aggregation,epochs=40")], fit_on=rows)(rows)[:, 0]
    assert abs(got.mean() - 3.29) < 0.6
    # Two models, each right where the other predicts nonsense: only weights that depend on the input can tell.
    low, high = rng.uniform(0, 1, (2, 3000, 1))
    first, second = np.where(low < high, low, 9), np.where(low < high, 9, high)
    quantiles = np.stack([edge + np.where(edge == 9, 2, 0.2) * levels for edge in (first, second)], axis=1)
    mixed = Observations({"model_quantiles": quantiles, "target": np.minimum(first, second) + 0.2 * y})
    constant, flexible = (
        compile([parse(f"quantile_aggregation,epochs=40{more}")], fit_on=mixed)(mixed)[:, 0].mean()
        for more in ("", ",hidden=16")
    )
    assert abs(flexible - 0.658) < abs(constant - 0.658) / 2
    with pytest.raises(SignalError, match="lowest first"):
        score("interval_width", quantiles=good[:, ::-1])
