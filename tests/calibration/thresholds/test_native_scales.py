"""Claim: few scores are looked up natively as JointScore does row by row, to the bit, whatever they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.native_module import native_module

from tocsin_calibration import Promise
from tocsin_calibration.thresholds.joint import JointScore
from tocsin_calibration.thresholds.native_scales import MOST_ROWS, lookup_of

STRANGE = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300, 5e-324]


@pytest.fixture(scope="module", autouse=True)
def scales(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The compiled module, built for these tests where Tocsin runs from its source."""
    with native_module("tocsin_calibration.thresholds._scales", tmp_path_factory.mktemp("scales")) as module:
        yield module


def score_of(rule: str, detectors: int, reference_rows: int, seed: int, *, ties: bool) -> tuple[JointScore, Any]:
    """A joint score and its reference scores."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(reference_rows, detectors))
    if ties:
        reference = reference.round(1)
    weights = rng.uniform(size=detectors).round(1) if rule == "learnt" else None
    return JointScore(reference, rule, weights), reference


@settings(max_examples=150)
@given(st.data())
def test_every_row_is_looked_up_as_one_by_one_and_as_by_numpy(data: st.DataObject) -> None:
    detectors = data.draw(st.integers(1, 6))
    rules = ["any", "all", "learnt", *[f"{k} of {detectors}" for k in range(1, detectors + 1)]]
    seed, rule = data.draw(st.integers(0, 10_000)), data.draw(st.sampled_from(rules))
    score, reference = score_of(rule, detectors, data.draw(st.integers(1, 400)), seed, ties=data.draw(st.booleans()))
    lookup = lookup_of(score)
    assert lookup is not None
    rng = np.random.default_rng(seed + 1)
    rows = rng.normal(scale=2, size=(data.draw(st.integers(0, MOST_ROWS)), detectors))
    rows[rng.uniform(size=rows.shape) < 0.2] = rng.choice(reference.ravel())
    rows[rng.uniform(size=rows.shape) < 0.1] = rng.choice(STRANGE)
    with np.errstate(over="ignore"):
        narrow = rows.astype(np.float32)
    for scores in (rows, narrow):
        looked_up = lookup(scores)
        assert looked_up is not None
        pairs = [score.of(row) for row in scores.tolist()]
        assert np.array([c for c, _ in pairs]).tobytes() == np.array(looked_up[0], np.float64).tobytes()
        assert [p for _, p in pairs] == looked_up[1]
        joint, pvalues = score(scores)
        np.testing.assert_array_equal(joint, looked_up[0])
        np.testing.assert_array_equal(pvalues, np.reshape(looked_up[1], pvalues.shape))


def test_arrays_of_another_kind_are_left_to_numpy() -> None:
    score, _ = score_of("any", 3, 50, 0, ties=False)
    lookup = lookup_of(score)
    assert lookup is not None
    others: list[Any] = [
        np.zeros((4, 3)).T, np.zeros((3, 4))[:, :3], np.zeros((2, 4)), np.zeros(3), np.zeros((2, 3), np.int64),
        np.zeros((2, 3), ">f8"), np.zeros((2, 3), np.float16), [[0.0, 0.0, 0.0]], b"123", None,
    ]  # fmt: skip
    assert [lookup(scores) for scores in others] == [None] * len(others)
    assert lookup(np.zeros((0, 3))) == ([], [])


def test_scales_that_do_not_fit_together_are_refused(scales: Any) -> None:
    lengths, numbers, weights = np.array([2, 3]).tobytes(), bytes(8 * 23), bytes(16)
    assert scales.Scales(lengths, numbers, weights, 1).of(np.zeros((1, 2))) is not None
    for arguments in (
        (lengths[:-1], numbers, weights, 1),
        (b"", b"", b"", 0),
        (lengths, numbers[:-8], weights, 1),
        (lengths, numbers + bytes(8), weights, 1),
        (lengths, numbers[:-1], weights, 1),
        (lengths, numbers, weights[:-8], 1),
        (lengths, numbers, weights, 3),
        (lengths, numbers, weights, -1),
        (np.array([0, 5]).tobytes(), numbers, weights, 1),
        (np.array([-1, 5]).tobytes(), numbers, weights, 1),
        (np.array([1 << 62, 5]).tobytes(), numbers, weights, 1),
        (np.array([1] * 257).tobytes(), bytes(8 * 4 * 257), bytes(8 * 257), 1),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            scales.Scales(*arguments)


def test_a_promise_judges_few_rows_the_same_with_and_without() -> None:
    rng = np.random.default_rng(3)
    reference, nonconformity = rng.normal(size=(300, 4)), np.abs(rng.normal(size=500))
    promise = Promise(reference, nonconformity, {"warning": 0.05, "critical": 0.01}, "2 of 4")
    rows = rng.normal(scale=3, size=(MOST_ROWS + 1, 4)).astype(np.float32)
    judged = promise.judge(rows)
    for at in range(0, MOST_ROWS, 7):
        part = promise.judge(rows[at : at + 7])
        stop = at + len(part.joint)
        assert part == (judged.pvalues[at:stop], judged.by_detector[at:stop], judged.severities[at:stop],
                        judged.joint[at:stop])  # fmt: skip
