"""Claims about what surrounds detectors: features in the graph, suggestions, separation, and judges under attack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score, roc_curve
from tests.detectors.test_family import DIGITS, LATER, NOISE, SAFE

from tocsin_detectors import (
    ATTACKS,
    DetectorError,
    Entropy,
    Features,
    Mahalanobis,
    Observations,
    Scorer,
    SignalError,
    compile,
    resist_one_token,
)
from tocsin_detectors.costs import _alone, costs_by_detector
from tocsin_detectors.features import parse_features
from tocsin_detectors.registry import parse
from tocsin_detectors.separation import separation
from tocsin_detectors.suggest import suggest

PROJECTION = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)


def of_one_batch(first: int | str = 1, out: int | str = 1) -> bytes:
    """An embedder as it is exported with the one example that was tried."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [first, 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [out, 4])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def projector() -> bytes:
    """(n, 8, 8) float16 images -> (n, 3, 4)."""
    from spox import Tensor, argument, build
    from spox.opset.ai.onnx import v18 as op

    images = argument(Tensor(np.float16, ("n", 8, 8)))
    flat = op.flatten(op.cast(images, to=np.float32), axis=1)
    out = op.reshape(op.matmul(flat, op.const(PROJECTION)), op.const(np.array([0, 3, 4])))
    return build({"image": images}, {"unused": op.neg(out), "projected": out}).SerializeToString()


def embedder() -> bytes:
    """Token ids (n, length) int64 and a mask -> the mean of their embeddings, (n, 6)."""
    from spox import Tensor, argument, build
    from spox.opset.ai.onnx import v18 as op

    ids, mask = (argument(Tensor(np.int64, ("n", "length"))) for _ in range(2))
    table = op.const(np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32))
    there = op.unsqueeze(op.cast(mask, to=np.float32), op.const(np.array([2])))
    total = op.reduce_sum(op.mul(op.gather(table, ids), there), op.const(np.array([1])), keepdims=0)
    return build(
        {"ids": ids, "mask": mask}, {"pooled": op.div(total, op.reduce_sum(there, op.const(np.array([1])), keepdims=0))}
    ).SerializeToString()


def test_a_model_before_the_detectors_becomes_part_of_the_graph(tmp_path: Path) -> None:
    file = tmp_path / "projector.onnx"
    file.write_bytes(projector())
    features = parse_features(f"projected={file},image=pixels,output=projected")
    safe = Observations({"pixels": DIGITS.images[:500], "probs": np.full((500, 2), 0.5)})
    scorer = compile([parse("mahalanobis:projected"), parse("entropy")], fit_on=safe, features=[features])
    assert scorer.signals == {"pixels": 64, "probs": 2}
    projected = DIGITS.data.astype(np.float32) @ PROJECTION
    expected = compile([parse("mahalanobis")], fit_on=Observations({"embedding": projected[:500]}))
    got = scorer(Observations({"pixels": DIGITS.data[500:], "probs": np.full((1297, 2), 0.5)}))[:, 0]
    np.testing.assert_allclose(got, expected.run({"embedding": projected[500:]})[:, 0], rtol=1e-3)


def test_token_ids_of_any_length_may_be_embedded() -> None:
    rng = np.random.default_rng(2)
    lengths = rng.integers(3, 20, 300)
    ids, mask = np.zeros((300, 20)), np.zeros((300, 20))
    for row, n in enumerate(lengths):
        ids[row, :n], mask[row, :n] = rng.integers(0, 50, n), 1
    features = Features("embedding", embedder())
    safe = Observations({"ids": ids, "mask": mask})
    scorer = compile([parse("mahalanobis")], fit_on=safe, features=[features])
    assert scorer.signals == {"ids": 0, "mask": 0}
    together = scorer(safe)[:, 0]
    alone = [
        scorer.run({"ids": ids[[row], :n].astype(np.float32), "mask": mask[[row], :n].astype(np.float32)})[0, 0]
        for row, n in enumerate(lengths)
    ]
    np.testing.assert_allclose(alone, together, rtol=1e-3)
    assert set(scorer.swallowed()) == {"ids", "mask"}  # a NaN is lost in the cast to int64: serving looks


def test_features_that_cannot_serve_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    for act, message in (
        (lambda: Features("f", tmp_path / "none.onnx"), "cannot be loaded"),
        (lambda: Features("f", tmp_path / "bad.onnx"), "bad.onnx cannot be loaded"),
        (lambda: Features("f", projector(), output="z"), r"has no output 'z' \(it has: unused, projected\)"),
        (lambda: Features("f", projector(), inputs={"z": "a"}), r"has no input 'z' \(it has: image\)"),
        (lambda: Features("f", of_one_batch()), r"takes batches of 1 only \(its input 'x' .*free first axis"),
        (lambda: Features("f", of_one_batch("n")), r"takes batches of 1 only \(its output 'y'"),
        (lambda: parse_features("f"), "given as SIGNAL=FILE.onnx"),
        (lambda: compile([parse("entropy")], SAFE, features=[Features("f", projector())]), "no signal 'image'"),
    ):
        with pytest.raises(SignalError, match=message):
            act()
    onnx.checker.check_model(onnx.load_from_string(projector()))


def test_each_detector_of_a_graph_is_timed_by_its_own_part_of_it() -> None:
    safe = Observations({"probs": np.full((50, 3), 1 / 3), "embedding": np.random.default_rng(0).normal(size=(50, 8))})
    scorer = compile([Entropy(), Mahalanobis()], fit_on=safe)
    costs = costs_by_detector(scorer, 4)
    assert list(costs) == ["entropy", "mahalanobis"] and all(cost > 0 for cost in costs.values())
    graph = onnx.load_model_from_string(scorer.graph)
    for column, name in ((0, "entropy"), (1, "mahalanobis")):
        joined = next(node for node in graph.graph.node if node.op_type == "Concat")
        part = _alone(graph, joined.input[column])
        entry = part.metadata_props.add()
        entry.key, entry.value = "detectors", name
        alone = Scorer(part.SerializeToString())
        assert list(alone.signals) == list({"entropy": ["probs"], "mahalanobis": ["embedding"]}[name])
        signals = Observations({signal: safe[signal] for signal in alone.signals})
        assert np.array_equal(alone(signals)[:, 0], scorer(safe)[:, column])


def test_separation_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    safe, shifted = rng.normal(size=400).round(1), rng.normal(1.2, size=300).round(1)
    truth, scores = np.repeat([0, 1], [400, 300]), np.concatenate([safe, shifted])
    got = separation(safe, shifted)
    assert got.auroc.value == pytest.approx(roc_auc_score(truth, scores))
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert got.fpr95.value == pytest.approx(fpr[np.argmax(tpr >= 0.95)])
    assert got.auroc.low < got.auroc.value < got.auroc.high
    ranks = rankdata(scores)[truth == 1]
    deviation = (ranks / 400).std() / np.sqrt(300)
    assert 2 * deviation < got.auroc.high - got.auroc.low < 8 * deviation


@pytest.mark.long
def test_suggestions_say_what_can_be_read_and_what_tells() -> None:
    suggestions, refused = suggest(SAFE, NOISE)
    specs = [suggestion.spec for suggestion in suggestions]
    assert {"entropy", "mahalanobis", "vim", "rnd", "react"} <= set(specs)
    assert not {"ace", "mean_surprisal", "order_swap"} & {*specs, *(no.spec for no in refused)}
    assert {no.spec: no.why for no in refused}["temperature_scaling"].startswith("temperature_scaling learns from")
    figures = [suggestion.separation.auroc.value for suggestion in suggestions if suggestion.separation]
    assert figures == sorted(figures, reverse=True) and figures[0] > 0.95
    assert all(0 < suggestion.cost[1] < suggestion.cost[0] < 1 for suggestion in suggestions)


@pytest.mark.long
def test_signals_of_other_names_are_read_by_what_they_look_like() -> None:
    renamed = Observations({"scores": SAFE["probs"], "hidden": SAFE["embedding"][:, :8]})
    suggestions, _ = suggest(renamed)
    specs = {suggestion.spec for suggestion in suggestions}
    assert {"entropy:scores", "gen:scores", "mahalanobis:hidden"} <= specs
    assert not any(spec.startswith(("entropy:hidden", "energy")) for spec in specs)
    costs = [suggestion.cost[1] for suggestion in suggestions]
    assert costs == sorted(costs)


def test_a_judge_that_looks_at_nothing_but_form_is_found_out() -> None:
    def by_form(question: str, answer: str) -> float:
        return 0.9 if answer.endswith(":") else 0.1

    def by_content(question: str, answer: str) -> float:
        return float(right[question] in answer)

    right = {"What is the capital of France?": "Paris", "Add 2 and 3.": "5"}
    questions = list(right)
    fooled = resist_one_token(by_form, questions, passes=0.5)
    assert fooled.questions == 2 * len(ATTACKS) and {attack.attack for attack in fooled.passed} >= {
        ":",
        "Thought process:",
    }
    assert 0 < fooled.rate < 1 and "the worst is" in str(fooled)
    steadfast = resist_one_token(by_content, questions, passes=0.5)
    assert steadfast.rate == 0 and str(steadfast) == f"none of {2 * len(ATTACKS)} empty or formulaic answers passed"
    with pytest.raises(DetectorError, match="no questions"):
        resist_one_token(by_form, [], passes=0.5)
    with pytest.raises(DetectorError, match="is NaN"):
        resist_one_token(lambda q, a: float("nan"), questions, passes=0.5)


def test_any_numeric_input_is_taken_and_none_is_lost() -> None:
    wide = {"embedding": SAFE["embedding"].astype(np.float16), "logits": np.round(SAFE["logits"]).astype(np.int64)}
    safe = Observations(wide)
    scorer = compile([parse("mahalanobis"), parse("energy"), parse("vim")], fit_on=safe)
    assert np.isfinite(scorer(safe)).all()
    assert scorer(safe.take(slice(0, 0))).shape == (0, 3)
    assert np.isfinite(scorer(LATER)).all()
