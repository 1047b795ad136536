"""Claims: few rows are scored natively from the contents of their responses, as they are when they are stacked; nobody
stacks them but who asks for their signals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.harness.parts import quick_bundle, safe_traffic, settings
from tests.native_module import native_module

from tocsin.judgement.batch_verdicts import finite_scores
from tocsin.judgement.guard import Guard
from tocsin.judgement.scoring import Scoring
from tocsin.protocols.rows import Family, Kind, Stacking
from tocsin.unscored import Unscored

WIDTHS = {"probs": 10, "embedding": 8}


@pytest.fixture(scope="module", autouse=True)
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The compiled module, built for these tests where Tocsin runs from its source."""
    with native_module("tocsin_detectors.small_graphs._steps", tmp_path_factory.mktemp("steps")) as module:
        yield module


@pytest.fixture
def scoring(tmp_path: Path) -> Scoring:
    quick_bundle(tmp_path / "digits.tocsin")
    opened = Guard.open(settings(1, tmp_path / "digits.tocsin")).models["digits"].scoring
    assert opened is not None and opened.scorer.native_rows
    return opened


def batch(signals: dict[str, Any], sizes: list[int], kinds: dict[str, str] | None = None) -> Stacking:
    """Responses of so many rows each, their signals in another order than the bundle's."""
    names = sorted(signals)
    kinds = {**dict.fromkeys(names, "FP32"), **(kinds or {})}
    types = {"FP32": np.float32, "FP64": np.float64}
    wanted: list[Kind] = [(name, kinds[name], (signals[name].shape[1],)) for name in names]
    starts = np.cumsum([0, *sizes[:-1]])
    contents = [
        [signals[name][start : start + size].astype(types[kinds[name]]).tobytes() for name in names]
        for start, size in zip(starts, sizes, strict=True)
    ]
    return Stacking(Family(None, tuple(wanted)), contents, sum(sizes))


def rows(many: int) -> dict[str, Any]:
    safe = safe_traffic(many, seed=3)
    return {name: safe[name].astype(np.float32) for name in ("probs", "embedding")}


@pytest.mark.parametrize("sizes", [[1], [1, 1], [1, 2, 1], [4], [2, 2]])
def test_few_rows_are_scored_without_being_stacked(scoring: Scoring, sizes: list[int]) -> None:
    signals = rows(sum(sizes))
    responses = batch(signals, sizes)
    if sum(sizes) > scoring.scorer.native_rows:
        pytest.skip("ONNX Runtime is as quick here for so many rows")
    scores = finite_scores(scoring, responses)
    np.testing.assert_array_equal(scores, scoring.scorer.run_by_onnx_runtime(signals))
    assert responses._stacked is None
    np.testing.assert_array_equal(responses.signals()["embedding"], signals["embedding"])
    assert responses.contents == []  # which are not kept twice while the batch waits to be counted


def test_other_numbers_than_float32_are_stacked(scoring: Scoring) -> None:
    signals = rows(1)
    for kinds in ({"probs": "FP64"}, {"probs": "FP64", "embedding": "FP64"}):
        responses = batch(signals, [1], kinds)
        assert scoring.run_natively(responses) is None
        np.testing.assert_array_equal(finite_scores(scoring, responses), scoring.scorer.run_by_onnx_runtime(signals))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(scoring: Scoring, bad: float) -> None:
    signals = rows(2)
    signals["embedding"][1, 3] = bad
    with pytest.raises(Unscored, match="signal 'embedding' holds NaN or infinity"):
        finite_scores(scoring, batch(signals, [1, 1]))


def test_contents_of_another_size_are_not_scored_natively(scoring: Scoring) -> None:
    responses = batch(rows(2), [1, 1])
    responses.contents[1][0] = responses.contents[1][0][:-4]
    assert scoring.run_natively(responses) is None
