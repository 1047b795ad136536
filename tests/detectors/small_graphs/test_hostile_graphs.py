"""Claims: a graph or a plan that is broken or too large is refused; none reads or writes what is not its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin_detectors import Energy, Mahalanobis, Observations, Scorer, compile
from tocsin_detectors.small_graphs.arena import Arrays
from tocsin_detectors.small_graphs.graph_file import LARGEST, read_graph
from tocsin_detectors.small_graphs.planner import plan
from tocsin_detectors.small_graphs.unsupported import Unsupported


def _scorer() -> Scorer:
    rng = np.random.default_rng(0)
    safe = Observations({"logits": rng.normal(size=(50, 4)), "embedding": rng.normal(size=(50, 6))})
    return compile([Energy(), Mahalanobis()], fit_on=safe)


SCORER = _scorer()
PLAN = plan(read_graph(SCORER.graph), SCORER.signals, 2)
SIGNALS = tuple(np.ones((1, width), np.float32) for width in SCORER.signals.values())


@settings(max_examples=1000)
@given(st.data())
def test_a_broken_graph_is_planned_or_refused(steps: Any, data: st.DataObject) -> None:
    content = bytearray(SCORER.graph)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    with contextlib.suppress(Unsupported):
        steps.Plan(*plan(read_graph(bytes(content)), SCORER.signals, 2))


@settings(max_examples=2000)
@given(st.data())
def test_a_broken_plan_is_refused_or_stays_within_its_arrays(steps: Any, data: st.DataObject) -> None:
    """Without bounds that are checked this ends the process, sooner or later; a build with a sanitizer at once."""
    arrays = list(PLAN)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 6))
        value = data.draw(st.one_of(st.integers(-2, 300), st.integers(-(1 << 31), (1 << 31) - 1)))
        if place == 0:
            arrays[0] = value
            continue
        numbers = np.frombuffer(arrays[place], np.int32).copy()
        if len(numbers):
            numbers[data.draw(st.integers(0, len(numbers) - 1))] = value
        arrays[place] = numbers.tobytes()
    with contextlib.suppress(ValueError, MemoryError):
        planned = steps.Plan(*arrays)
        planned.run(1, SIGNALS, np.zeros((1, 2), np.float32))


@pytest.mark.parametrize(
    ("rows", "inputs", "scores"),
    [
        (2, SIGNALS, np.zeros((2, 2), np.float32)),
        (1, SIGNALS, np.zeros((2, 2), np.float32)),
        (1, SIGNALS, np.zeros((1, 2), np.float64)),
        (1, SIGNALS[:1], np.zeros((1, 2), np.float32)),
        (-1, SIGNALS, np.zeros((1, 2), np.float32)),
        (1, tuple(s.astype(np.float64)[:, ::2] for s in SIGNALS), np.zeros((1, 2), np.float32)),
        (1, tuple(s.astype(np.int32) for s in SIGNALS), np.zeros((1, 2), np.float32)),
        (1, tuple(s.astype(">f4") for s in SIGNALS), np.zeros((1, 2), np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(steps: Any, rows: int, inputs: Any, scores: Any) -> None:
    with pytest.raises((ValueError, BufferError)):
        steps.Plan(*PLAN).run(rows, inputs, scores)


RESPONSES = [[signal.tobytes() for signal in SIGNALS]]
ORDER = tuple(range(len(SIGNALS)))


@pytest.mark.parametrize(
    ("rows", "responses"),
    [
        (2, RESPONSES),
        (1, RESPONSES * 2),
        (1, []),
        (1, [[]]),
        (1, [RESPONSES[0][:1]]),
        (1, [tuple(RESPONSES[0])]),
        (1, [[bytearray(content) for content in RESPONSES[0]]]),
        (1, [[content[:-1] for content in RESPONSES[0]]]),
        (1, [[b"" for _ in RESPONSES[0]]]),
        (2, [[RESPONSES[0][0] * 2, *RESPONSES[0][1:]]]),
        (1, [[content * 1000 for content in RESPONSES[0]]]),
        (1, [None]),
    ],
)
def test_contents_of_other_sizes_are_not_evaluated(steps: Any, rows: int, responses: Any) -> None:
    scores = np.zeros((rows, 2), np.float32)
    assert steps.Plan(*PLAN).run_contents(rows, responses, ORDER, scores) is False
    assert not scores.any()


@pytest.mark.parametrize(
    ("rows", "responses", "order", "scores"),
    [
        (1, RESPONSES, ORDER, np.zeros((2, 2), np.float32)),
        (1, RESPONSES, ORDER, np.zeros((1, 2), np.float64)),
        (1, RESPONSES, ORDER[:1], np.zeros((1, 2), np.float32)),
        (1, RESPONSES, (-1, *ORDER[1:]), np.zeros((1, 2), np.float32)),
        (1, RESPONSES, ("x", *ORDER[1:]), np.zeros((1, 2), np.float32)),
        (1, RESPONSES, (1 << 80, *ORDER[1:]), np.zeros((1, 2), np.float32)),
        (-1, RESPONSES, ORDER, np.zeros((1, 2), np.float32)),
        (1 << 40, RESPONSES, ORDER, np.zeros((1, 2), np.float32)),
        (1, tuple(RESPONSES), ORDER, np.zeros((1, 2), np.float32)),
    ],
)
def test_contents_that_make_no_sense_are_refused(
    steps: Any, rows: int, responses: Any, order: Any, scores: Any
) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        steps.Plan(*PLAN).run_contents(rows, responses, order, scores)


def test_contents_in_another_order_are_the_same_rows(steps: Any) -> None:
    planned, random = steps.Plan(*PLAN), np.random.default_rng(4)
    signals = [random.uniform(size=(5, signal.shape[1])).astype(np.float32) for signal in SIGNALS]
    expected, scores = np.zeros((5, 2), np.float32), np.zeros((5, 2), np.float32)
    assert planned.run(5, tuple(signals), expected)
    responses = [
        [values[start:stop].tobytes() for values in reversed(signals)] for start, stop in ((0, 1), (1, 1), (1, 5))
    ]
    assert planned.run_contents(5, responses, ORDER[::-1], scores)
    np.testing.assert_array_equal(scores, expected)


def test_what_cannot_be_written_is_no_place_for_scores(steps: Any) -> None:
    scores = np.zeros((1, 2), np.float32)
    scores.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        steps.Plan(*PLAN).run(1, SIGNALS, scores)


def _large(change: Callable[[Any], None]) -> bytes:
    import onnx

    model = onnx.load_from_string(SCORER.graph)
    change(model)
    return model.SerializeToString()  # type: ignore[no-any-return]


def _repeated(model: Any) -> None:
    """Energy, computed a thousand times over."""
    (node,) = [node for node in model.graph.node if node.op_type == "ReduceLogSumExp"]
    last = node.input[0]
    for number in range(1500):
        added = model.graph.node.add(op_type="Neg", input=[last], output=[f"more{number}"])
        last = added.output[0]
    nodes = sorted(model.graph.node, key=lambda n: n.op_type != "Cast" or n.input[0] not in SCORER.signals)
    more = [n for n in nodes if n.output[0].startswith("more")]
    rest = [n for n in nodes if not n.output[0].startswith("more")]
    node.input[0] = last
    del model.graph.node[:]
    model.graph.node.extend([*rest[:2], *more, *rest[2:]])


def _wide(model: Any) -> None:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_value = 1 << 20


@pytest.mark.parametrize(
    ("change", "reason", "widths"),
    [
        (_repeated, "takes long", {}),
        (_wide, "too much memory", {"logits": 1 << 20, "embedding": 1 << 20}),
    ],
)
def test_a_large_graph_is_left_to_onnx_runtime(
    change: Callable[[Any], None], reason: str, widths: dict[str, int]
) -> None:
    with pytest.raises(Unsupported, match=reason):
        plan(read_graph(_large(change)), widths or SCORER.signals, 2)
    with pytest.raises(Unsupported, match="the graph is large"):
        read_graph(bytes(LARGEST + 1))


def test_a_plans_arrays_are_those_that_it_takes() -> None:
    arrays: Arrays = PLAN
    assert len(arrays[4]) % (14 * 4) == 0
