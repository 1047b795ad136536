"""Claims about detectors of actions, tokens, answers, judges, modalities and regressions: each is its definition."""

from __future__ import annotations

from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from tocsin_detectors import Observations, Scorer, SignalError, compile
from tocsin_detectors.graph import build_graph, masked_signals
from tocsin_detectors.registry import parse

RNG = np.random.default_rng(3)


def score(spec: str, **signals: np.ndarray) -> np.ndarray:
    """Scores of the responses that the detector was fitted on."""
    rows = Observations(signals)
    return compile([parse(spec)], fit_on=rows)(rows)[:, 0]


def by_row(function: Any, *signals: np.ndarray) -> np.ndarray:
    return np.array([function(*row) for row in zip(*signals, strict=True)])


# Actions: (n, S, H, A)
WIDE = RNG.uniform(0.01, 0.5, (40, 1, 1, 1))
ACTIONS = (RNG.normal(size=(40, 1, 6, 2)) + WIDE * RNG.normal(size=(40, 12, 6, 2))).astype(np.float32)


def literal_ace(actions: np.ndarray, cells: np.ndarray, per_dimension: bool) -> float:
    """FIPER's definition, step by step with explicit bins."""
    bits = 0.0
    for step in range(actions.shape[1]):
        points = actions[:, step].astype(float)
        low, high = points.min(axis=0), points.max(axis=0)
        edges = []
        for a in range(points.shape[1]):
            start, stop = low[a] - 0.01 * (high[a] - low[a]), high[a] + 0.01 * (high[a] - low[a])
            edges.append(start + cells[a] * np.arange(int(np.ceil((stop - start) / cells[a])) + 2))
        for dims in [[a] for a in range(len(edges))] if per_dimension else [list(range(len(edges)))]:
            counts, _ = np.histogramdd(points[:, dims], [edges[a] for a in dims])
            bits += entropy(counts.ravel(), base=2)
    return bits / actions.shape[1]


@pytest.mark.parametrize("per_dimension", [False, True])
@pytest.mark.parametrize("factor", [0.03, 0.2])
def test_ace_is_fipers_definition(per_dimension: bool, factor: float) -> None:
    cells = factor * (ACTIONS.max(axis=(0, 1, 2)) - ACTIONS.min(axis=(0, 1, 2)))
    expected = by_row(lambda chunk: literal_ace(chunk, cells, per_dimension), ACTIONS)
    got = score(f"ace,factor={factor},per_dimension={per_dimension}", actions=ACTIONS)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [0.03, 0.4])  # cells that are too many for a table, and few
def test_what_is_not_finite_shows_in_its_own_row_alone(factor: float) -> None:
    scorer = compile([parse(f"ace,factor={factor}")], fit_on=Observations({"actions": ACTIONS}))
    usual = scorer(Observations({"actions": ACTIONS}))[:, 0]
    for bad in (np.nan, np.inf, -np.inf):
        broken = ACTIONS.copy()
        broken[3, 2, 1, 0] = bad
        got = scorer(Observations({"actions": broken}))[:, 0]
        assert np.isnan(got[3])
        np.testing.assert_allclose(np.delete(got, 3), np.delete(usual, 3), rtol=1e-6)


@pytest.mark.long
def test_ace_chooses_cells_that_leave_room_and_warns_when_there_are_none() -> None:
    spread = RNG.normal(size=(60, 16, 4, 4))
    with pytest.warns(UserWarning, match=r"ace: safe responses reach 4\.0 of 4\.0 bits .* leaves no room"):
        full = score("ace,factor=0.03", actions=spread)
    assert full.min() > 3.9
    with pytest.warns(UserWarning, match="no room"):
        score("ace,factor=0.03,per_dimension=true", actions=spread[:, :2])
    narrow = RNG.normal(size=(60, 1, 4, 4)) + 0.05 * RNG.normal(size=(60, 16, 4, 4))
    chosen = score("ace", actions=narrow)
    assert np.percentile(chosen, 95) <= 2.0
    assert chosen.mean() > score("ace,factor=0.5", actions=narrow).mean()


def test_a_dimension_that_never_moves_has_cells_all_the_same() -> None:
    still = ACTIONS.copy()
    still[..., 1] = 2.5
    alone = score("ace,factor=0.1", actions=still[..., :1])
    np.testing.assert_allclose(score("ace,factor=0.1", actions=still), alone, rtol=1e-5)


def test_flat_actions_need_to_be_told_their_shape() -> None:
    flat = ACTIONS.reshape(40, -1)
    expected = score("sample_variance", actions=ACTIONS)
    np.testing.assert_allclose(score("sample_variance,samples=12,steps=6", actions=flat), expected, rtol=1e-6)
    with pytest.raises(SignalError, match=r"144 numbers a response in the shape \[144\], .*samples=\?, steps=\?"):
        score("sample_variance", actions=flat)
    with pytest.raises(SignalError, match="holds one sampled action"):
        score("ace", actions=ACTIONS[:, :1])


def test_sample_variance_is_its_formula() -> None:
    ranges = ACTIONS.max(axis=(0, 1, 2)) - ACTIONS.min(axis=(0, 1, 2))
    expected = (ACTIONS / ranges).var(axis=1).mean(axis=(1, 2))
    np.testing.assert_allclose(score("sample_variance", actions=ACTIONS), expected, rtol=1e-4)
    assert np.corrcoef(expected, WIDE.ravel() ** 2)[0, 1] > 0.9


def test_stac_is_the_mmd_of_the_overlap() -> None:
    earlier = np.roll(ACTIONS, 2, axis=2) + 0.01 * RNG.normal(size=ACTIONS.shape).astype(np.float32)
    later, before = (part.reshape(40, 12, -1).astype(float) for part in (ACTIONS[:, :, :4], earlier[:, :, 2:]))

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    both = np.concatenate([later, before], axis=1)
    pairs = [distances(chunk, chunk)[i, j] for chunk in both for i, j in combinations(range(24), 2)]
    width = np.median(pairs)

    def mmd(a: np.ndarray, b: np.ndarray) -> float:
        kernel = [np.exp(-distances(*two) / (2 * width)).mean() for two in ((a, a), (b, b), (a, b))]
        return kernel[0] + kernel[1] - 2 * kernel[2]

    got = score("stac,executed=2", actions=ACTIONS, previous_actions=earlier)
    np.testing.assert_allclose(got, by_row(mmd, later, before), rtol=1e-3, atol=1e-6)
    rows = Observations({"actions": ACTIONS, "previous_actions": earlier})
    scorer = compile([parse("stac,executed=2")], fit_on=rows)
    changed = Observations({"actions": ACTIONS + 1, "previous_actions": earlier})
    assert (scorer(changed)[:, 0] > got).mean() > 0.9
    with pytest.raises(SignalError, match="do not overlap"):
        score("stac,executed=6", actions=ACTIONS, previous_actions=earlier)


# Tokens: (n, T), of different lengths
LENGTHS = RNG.integers(1, 30, 50)
LOGPROBS = [np.log(RNG.uniform(0.01, 1, n)).astype(np.float32) for n in LENGTHS]
TOPS = [np.log(0.98 * -np.sort(-RNG.dirichlet(np.ones(6), n)[:, :5], axis=1)).astype(np.float32) for n in LENGTHS]
WORDS = [RNG.integers(0, 4, n).astype(np.float32) for n in LENGTHS]


def padded(rows: list[np.ndarray], value: float) -> np.ndarray:
    filled = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), value, np.float32)
    for at, row in enumerate(rows):
        filled[at, : len(row)] = row
    return filled


def token_entropy(tops: np.ndarray) -> float:
    probs = np.exp(tops.astype(float))
    return float(np.mean([entropy([*p, 1 - p.sum()]) for p in probs]))


def windowed(logprobs: np.ndarray, w: int = 8) -> float:
    longer = np.concatenate([np.zeros(w - 1), -logprobs, np.zeros(w - 1)])
    return max(longer[start : start + w].sum() / w for start in range(len(longer) - w + 1))


def repetition(words: np.ndarray, grams: int) -> float:
    every = [tuple(words[i : i + grams]) for i in range(len(words) - grams + 1)]
    return (len(every) - len(set(every))) / len(every) if every else 0.0


@pytest.mark.parametrize(
    ("spec", "signal", "rows", "padding", "expected"),
    [
        ("mean_surprisal", "token_logprobs", LOGPROBS, 1, lambda z: -z.mean()),
        ("max_surprisal", "token_logprobs", LOGPROBS, 1, lambda z: -z.min()),
        ("perplexity", "token_logprobs", LOGPROBS, 1, lambda z: np.exp(-z.mean())),
        ("windowed_surprisal", "token_logprobs", LOGPROBS, 1, windowed),
        ("token_entropy", "top_logprobs", TOPS, 1, token_entropy),
        ("repetition,grams=2", "tokens", WORDS, -1, lambda w: repetition(w, 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_token_scores_are_their_formulas_at_any_length(
    spec: str, signal: str, rows: list[np.ndarray], padding: float, expected: Any
) -> None:
    rows_of_tokens = Observations({signal: padded(rows, padding)})
    scorer = compile([parse(spec)], fit_on=rows_of_tokens)
    wanted = np.array([expected(row) for row in rows])
    np.testing.assert_allclose(scorer(rows_of_tokens)[:, 0], wanted, rtol=1e-4, atol=1e-5)
    assert scorer.signals == {signal: 0}
    alone = [scorer.run({signal: row.reshape(1, -1)})[0, 0] for row in rows]  # as served: without padding
    np.testing.assert_allclose(alone, wanted, rtol=1e-4, atol=1e-5)
    broken = rows[0].reshape(1, -1).copy()
    broken[0, -1] = np.nan
    assert np.isnan(scorer.run({signal: broken})).all()


def test_masked_alternatives_are_a_probability_of_zero() -> None:
    """A grammar leaves one token or two at some places; the others have the log-probability -inf."""
    masked = [row.copy() for row in TOPS]
    for row in masked:
        row[::2] = [np.log(0.75), np.log(0.25), -np.inf, -np.inf, -np.inf]
        row[-1] = [0, -np.inf, -np.inf, -np.inf, -np.inf]
    for fitted_on in (TOPS, masked):
        scorer = compile([parse("token_entropy")], fit_on=Observations({"top_logprobs": padded(fitted_on, 1)}))
        assert scorer.masked == {"top_logprobs"} <= set(scorer.swallowed())
        wanted = [token_entropy(row) for row in masked]
        got = scorer(Observations({"top_logprobs": padded(masked, 1)}))[:, 0]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    for broken in (np.nan, np.inf):
        odd = padded(TOPS, 1)
        odd[0, 0, 0] = broken
        with pytest.raises(SignalError, match="NaN or infinity"):
            score("token_entropy", top_logprobs=odd)
    both = [parse("token_entropy"), parse("mean_surprisal:top_logprobs")]
    assert masked_signals(both) == (), "to another reader of the signal, it is no probability of 0"
    with pytest.raises(SignalError, match="NaN or infinity"):
        score("mean_surprisal", token_logprobs=np.array([[-1.0, -np.inf], [-1.0, -2.0]]))


def test_what_is_no_logprob_or_no_multiple_is_refused() -> None:
    with pytest.raises(SignalError, match=r"holds 0\.5, but log-probabilities are at most 0"):
        score("mean_surprisal", token_logprobs=np.full((5, 4), 0.5))
    scorer = compile([parse("token_entropy")], fit_on=Observations({"top_logprobs": padded(TOPS, 1)}))
    with pytest.raises(SignalError, match="has width 7, but the detectors were fitted on multiples of 5"):
        scorer(Observations({"top_logprobs": np.zeros((1, 7))}))


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
