"""Claims: few rows are scored natively, by nearly every detector, and as ONNX Runtime scores them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tocsin.testing.detector_example import DetectorExample, example_signals
from tocsin.testing.detectors import same_in_any_batch
from tocsin_detectors import Energy, Entropy, Mahalanobis, Observations, RandomNetworkDistillation, Scorer, compile
from tocsin_detectors.registry import BUILT_IN
from tocsin_detectors.small_graphs import evaluator as module
from tocsin_detectors.small_graphs.evaluator import evaluator
from tocsin_detectors.small_graphs.unsupported import Unsupported

# Graphs with loops, branches, trees, convolutions, and indices that they compute.
BY_ONNX_RUNTIME = {
    "ace", "isolation_forest", "lexical_disagreement", "repetition", "she", "transitivity", "windowed_surprisal"
}  # fmt: skip


def evaluated(graph: bytes, scorer: Scorer, widths: dict[str, int]) -> module.Evaluator:
    return evaluator(graph, widths, len(scorer.detectors), scorer.masked, scorer.run_by_onnx_runtime)


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is quicker is no claim of these tests: a busy machine may measure anything."""
    monkeypatch.setattr(module, "_worth", lambda *_: module.MOST_ROWS)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(300, 10), scale=3)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    safe = Observations({"probs": probs, "logits": logits, "embedding": rng.normal(size=(300, 64))})
    return compile([Entropy(), Energy(), Mahalanobis(), RandomNetworkDistillation(epochs=2)], fit_on=safe)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_detector_scores_natively_what_onnx_runtime_scores(name: str) -> None:
    scorer = DetectorExample(name, None, None).scorer
    signals = {key: values for key, values in example_signals(7).items() if key in scorer.signals}
    lengths = {key: scorer.units[key] for key, width in scorer.signals.items() if not width}
    rows = {key: v.reshape(len(v), -1)[:, : lengths.get(key)] for key, v in signals.items()}
    observed = Observations(rows)
    expected = scorer(observed)
    scorer.warm()
    assert bool(scorer.native_rows) is (name not in BY_ONNX_RUNTIME)
    for size in (1, 3, module.MOST_ROWS):
        for at in range(0, len(expected) - size + 1, 7 * size):
            part = {key: np.ascontiguousarray(observed[key][at : at + size]) for key in scorer.signals}
            np.testing.assert_array_equal(scorer.run(part), expected[at : at + size])


def test_scores_are_the_same_in_any_batch_where_few_rows_are_scored_natively(scorer: Scorer) -> None:
    scorer.warm()
    assert scorer.native_rows
    rng = np.random.default_rng(6)
    signals = {name: rng.uniform(size=(300, width)).astype(np.float32) for name, width in scorer.signals.items()}
    same_in_any_batch(scorer, signals)


def test_what_is_not_finite_is_left_to_onnx_runtime(scorer: Scorer) -> None:
    scorer.warm()
    assert scorer._native is not None
    ones = {name: np.ones((1, width), np.float32) for name, width in scorer.signals.items()}
    assert scorer._native.run(ones, 1) is not None
    for bad in (np.nan, np.inf, -np.inf):
        signals = {**ones, "embedding": np.full_like(ones["embedding"], bad)}
        assert scorer._native.run(signals, 1) is None
        assert not np.isfinite(scorer.run(signals)).all()
    zeros = {name: np.zeros_like(values) for name, values in ones.items()}  # 0 / 0 on the way
    assert scorer._native.run(zeros, 1) is None


def test_a_masked_signal_is_scored_natively() -> None:
    example = DetectorExample("token_entropy", None, None)
    scorer = example.scorer
    scorer.warm()
    assert scorer._native is not None and scorer.masked
    (name,) = scorer.signals
    row = np.log(np.full((1, scorer.units[name]), 0.1, np.float32))
    row[0, -1] = -np.inf
    scores = scorer._native.run({name: row}, 1)
    assert scores is not None
    np.testing.assert_array_equal(scores, scorer.run_by_onnx_runtime({name: row}))


def test_another_length_is_left_to_onnx_runtime() -> None:
    scorer = DetectorExample("mean_surprisal", None, None).scorer
    expected = scorer.run({"token_logprobs": np.full((1, 5), -0.25, np.float32)})
    scorer.warm()
    assert scorer.native_rows
    np.testing.assert_array_equal(scorer.run({"token_logprobs": np.full((1, 5), -0.25, np.float32)}), expected)


def test_arrays_of_another_kind_are_left_to_onnx_runtime(scorer: Scorer) -> None:
    scorer.warm()
    rng = np.random.default_rng(1)
    usual = {name: rng.uniform(size=(2, width)).astype(np.float32) for name, width in scorer.signals.items()}
    apart = {name: np.asfortranarray(values) for name, values in usual.items()}
    assert scorer._native is not None and scorer._native.run(apart, 2) is None
    np.testing.assert_array_equal(scorer.run(apart), scorer.run(usual))


def test_other_scores_than_onnx_runtimes_are_never_given(scorer: Scorer) -> None:
    """The float32 number next to one of them is enough."""

    def reference(signals: Any) -> Any:
        scores = scorer.run_by_onnx_runtime(signals)
        scores[-1, -1] = np.nextafter(scores[-1, -1], np.float32(np.inf))
        return scores

    with pytest.raises(Unsupported, match="other scores"):
        evaluator(scorer.graph, scorer.signals, len(scorer.detectors), scorer.masked, reference)


def test_without_the_compiled_module_onnx_runtime_scores(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_steps", lambda: None)
    scorer.warm()
    assert not scorer.native_rows
    assert scorer.run({name: np.ones((1, width), np.float32) for name, width in scorer.signals.items()}).shape == (1, 4)


def test_threads_share_a_scorer(scorer: Scorer) -> None:
    scorer.warm()
    assert scorer.native_rows
    rng = np.random.default_rng(2)
    signals = {name: rng.uniform(size=(200, width)).astype(np.float32) for name, width in scorer.signals.items()}
    expected = scorer.run(signals)
    wrong: list[int] = []

    def score(first: int) -> None:
        for row in [*range(first, 200), *range(first)]:
            scores = scorer.run({name: values[row : row + 1] for name, values in signals.items()})
            wrong.extend([row] * int((scores != expected[row]).any()))

    threads = [threading.Thread(target=score, args=(25 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_machine_that_is_busy_for_a_moment_does_not_make_a_bundle_heavy(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.9, 0.8, 0.001, 0.7, 0.6])
    monkeypatch.setattr(Scorer, "_timed", lambda self, signals: next(seconds))
    assert scorer.warm() == 0.001
