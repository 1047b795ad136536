"""Claims: signals of free length are scored natively at the widths that come often, with the scores of ONNX Runtime;
what is rare or cannot be planned is left to it, and no plan is made twice."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import pytest

from tocsin_detectors import Observations, Scorer, compile
from tocsin_detectors.registry import parse
from tocsin_detectors.small_graphs import by_width
from tocsin_detectors.small_graphs import evaluator as module
from tocsin_detectors.small_graphs.by_width import MOST_WIDTHS, OFTEN, EvaluatorsByWidth
from tocsin_detectors.small_graphs.evaluator import Evaluator
from tocsin_detectors.small_graphs.unsupported import Unsupported


def settled() -> None:
    """Wait for plans that are tried."""
    for thread in threading.enumerate():
        if thread.name == "tocsin-small-graph":
            thread.join(30)


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Scorer:
    monkeypatch.setattr(module, "_worth", lambda *_: module.MOST_ROWS)  # a busy machine may measure anything
    logprobs = np.log(np.random.default_rng(8).uniform(0.3, 1, (300, 6))).astype(np.float32)
    return compile([parse("mean_surprisal"), parse("max_surprisal")], fit_on=Observations({"token_logprobs": logprobs}))


def test_a_width_that_comes_often_is_scored_natively_and_to_the_bit(scorer: Scorer) -> None:
    scorer.warm()
    natively = scorer._by_width
    assert natively is not None
    rows = np.log(np.random.default_rng(3).uniform(0.01, 1, (7, 20))).astype(np.float32)
    signals = {"token_logprobs": rows}
    expected = scorer.run_by_onnx_runtime(signals)
    for _ in range(OFTEN):
        np.testing.assert_array_equal(scorer.run(signals), expected)
    settled()
    evaluator = natively.of(signals)
    assert evaluator is not None
    np.testing.assert_array_equal(evaluator.run(signals, 7), expected)
    np.testing.assert_array_equal(scorer.run(signals), expected)
    other = {"token_logprobs": np.ascontiguousarray(rows[:, :19])}
    assert natively.of(other) is None
    np.testing.assert_array_equal(scorer.run(other), scorer.run_by_onnx_runtime(other))


def test_widths_are_fixed_where_no_signal_is_of_free_length() -> None:
    safe = Observations({"embedding": np.random.default_rng(5).normal(size=(100, 8))})
    scorer = compile([parse("mahalanobis:embedding")], fit_on=safe)
    scorer.warm()
    assert scorer._by_width is None


def test_what_cannot_be_planned_is_tried_once_and_only_so_many_are() -> None:
    tried: list[int] = []

    def make(widths: Mapping[str, int]) -> Evaluator:
        tried.append(widths["a"])
        raise Unsupported("not this one")

    shortest = object.__new__(Evaluator)
    evaluators = EvaluatorsByWidth(make, {"a": 1}, shortest)
    for width in range(1, MOST_WIDTHS + 5):
        for _ in range(OFTEN + 2):
            evaluator = evaluators.of({"a": np.zeros((1, width), np.float32)})
            assert (evaluator is shortest) == (width == 1)
        settled()
    assert tried == list(range(2, MOST_WIDTHS + 1))


def test_rare_widths_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_width, "MOST_COUNTED", 10)
    evaluators = EvaluatorsByWidth(lambda widths: object.__new__(Evaluator), {"a": 1}, object.__new__(Evaluator))
    for width in range(2, 200):
        assert evaluators.of({"a": np.zeros((1, width), np.float32)}) is None
        assert len(evaluators._batches) <= 11


def test_a_look_for_a_plan_counts_nothing() -> None:
    evaluators = EvaluatorsByWidth(lambda widths: object.__new__(Evaluator), {"a": 1}, object.__new__(Evaluator))
    assert evaluators.look_up({"a": 1}) is not None
    for _ in range(3 * OFTEN):
        assert evaluators.look_up({"a": 2}) is None
    assert not evaluators._batches and not evaluators._is_trying
