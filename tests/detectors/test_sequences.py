"""Claims about detectors of actions and tokens: each is its definition, at any length."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy
from tests.detectors.scoring import by_row, score

from tocsin_detectors import Observations, SignalError, compile
from tocsin_detectors.graph import masked_signals
from tocsin_detectors.registry import parse

RNG = np.random.default_rng(3)
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
