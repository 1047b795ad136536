"""Claim: of random graphs, what is planned gives what ONNX Runtime gives.

Numbers are small multiples of 1/8, of which doubles hold sums and products exactly in any order: results are equal.
Float32 products are compared on numbers of all kinds, as they are computed in one order alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tocsin_detectors.onnx_runtime import onnxruntime
from tocsin_detectors.small_graphs.graph_file import read_graph
from tocsin_detectors.small_graphs.planner import plan
from tocsin_detectors.small_graphs.unsupported import Unsupported

ROWS = 3
UNARY = ["Neg", "Abs", "Floor", "Round", "Relu", "Identity"]
BINARY = ["Add", "Sub", "Mul", "Max", "Min"]
REDUCE = ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceSumSquare"]
COMPARE = ["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"]


class RandomGraph:
    """A graph that grows by nodes; `values` are names of doubles and their shapes, the rows' axis not counted."""

    def __init__(self, width: int) -> None:
        self.nodes = [helper.make_node("Cast", ["x"], ["double"], to=TensorProto.DOUBLE)]
        self.width = width
        self.values: list[tuple[str, tuple[int, ...]]] = [("double", (width,))]

    def constant(self, array: Any) -> str:
        name = f"c{len(self.nodes)}"
        self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array))))
        return name

    def add(self, operator: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        if shape:
            self.values.append((name, shape))
        return name

    def model(self) -> bytes:
        """With all values of the last one, as float32, for scores."""
        name, shape = self.values[-1]
        flat = self.constant(np.array([-1, int(np.prod(shape))]))
        self.nodes.append(helper.make_node("Reshape", [name, flat], ["flat"]))
        self.nodes.append(helper.make_node("Cast", ["flat"], ["scores"], to=TensorProto.FLOAT))
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", self.width])]
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", int(np.prod(shape))])]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model)
        return model.SerializeToString()  # type: ignore[no-any-return]


@st.composite
def graphs(draw: st.DrawFn) -> RandomGraph:
    """Graphs of one to eight random operators."""
    graph = RandomGraph(draw(st.integers(1, 9)))
    for _ in range(draw(st.integers(1, 8))):
        GROWING[draw(st.sampled_from(sorted(GROWING)))](draw, graph)
    return graph


def unary(draw: st.DrawFn, graph: RandomGraph) -> None:
    name, shape = draw(st.sampled_from(graph.values))
    graph.add(draw(st.sampled_from(UNARY)), [name], shape)


def binary(draw: st.DrawFn, graph: RandomGraph) -> None:
    name, shape = draw(st.sampled_from(graph.values))
    alike = [value for value, other in graph.values if other == shape]
    numbers = draw(st.lists(st.integers(-8, 8), min_size=shape[-1], max_size=shape[-1]))
    other = draw(st.sampled_from([*alike, ""])) or graph.constant(np.array(numbers, np.float64) / 8)
    operands = [name, other] if draw(st.booleans()) else [other, name]
    graph.add(draw(st.sampled_from(BINARY)), operands, shape)


def where(draw: st.DrawFn, graph: RandomGraph) -> None:
    name, shape = draw(st.sampled_from(graph.values))
    other = draw(st.sampled_from([value for value, alike in graph.values if alike == shape]))
    chosen = graph.add(draw(st.sampled_from(COMPARE)), [name, graph.constant(np.array(0.125))], ())
    graph.add("Where", [chosen, name, other], shape)


def reduce(draw: st.DrawFn, graph: RandomGraph) -> None:
    name, shape = draw(st.sampled_from(graph.values))
    axis = draw(st.integers(1, len(shape)))
    keeps = draw(st.booleans()) or len(shape) == 1
    attributes = {"keepdims": int(keeps)}
    rest = tuple(1 if at == axis - 1 else n for at, n in enumerate(shape) if keeps or at != axis - 1)
    operator = draw(st.sampled_from([*REDUCE, "ArgMax", "ArgMin"]))
    if operator.startswith("Arg"):
        indices = graph.add(operator, [name], (), axis=axis, **attributes)
        graph.add("Cast", [indices], rest, to=TensorProto.DOUBLE)
        return
    graph.add(operator, [name, graph.constant(np.array([axis]))], rest, **attributes)


def move(draw: st.DrawFn, graph: RandomGraph) -> None:
    name, shape = draw(st.sampled_from(graph.values))
    length = shape[-1]
    match draw(st.sampled_from(["gather", "slice", "unsqueeze", "transpose", "concat", "flatten"])):
        case "gather":
            indices = draw(st.lists(st.integers(-length, length - 1), min_size=1, max_size=6))
            indices_name = graph.constant(np.array(indices))
            graph.add("Gather", [name, indices_name], (*shape[:-1], len(indices)), axis=len(shape))
        case "slice":
            start = draw(st.integers(0, length - 1))
            step = draw(st.integers(1, 3))
            bounds = [graph.constant(np.array([n])) for n in (start, 1 << 40, len(shape), step)]
            graph.add("Slice", [name, *bounds], (*shape[:-1], len(range(start, length, step))))
        case "unsqueeze" if len(shape) < 3:
            axis = draw(st.integers(1, len(shape) + 1))
            graph.add(
                "Unsqueeze", [name, graph.constant(np.array([axis]))], (*shape[: axis - 1], 1, *shape[axis - 1 :])
            )
        case "transpose":
            order = draw(st.permutations(range(1, len(shape) + 1)))
            graph.add("Transpose", [name], tuple(shape[at - 1] for at in order), perm=[0, *order])
        case "concat" if length < 20:
            other = draw(st.sampled_from([value for value in graph.values if value[1][:-1] == shape[:-1]]))
            graph.add("Concat", [name, other[0]], (*shape[:-1], length + other[1][-1]), axis=len(shape))
        case _:
            graph.add("Flatten", [name], (int(np.prod(shape)),), axis=1)


def order(draw: st.DrawFn, graph: RandomGraph) -> None:
    name, shape = draw(st.sampled_from(graph.values))
    if draw(st.booleans()):
        graph.add("CumSum", [name, graph.constant(np.array(len(shape)))], shape,
                  exclusive=draw(st.integers(0, 1)), reverse=draw(st.integers(0, 1)))  # fmt: skip
        return
    many = draw(st.integers(1, shape[-1]))
    top = graph.add("TopK", [name, graph.constant(np.array([many]))], (), largest=draw(st.integers(0, 1)))
    node = graph.nodes[-1]
    node.output.append(f"{top}.indices")
    graph.values.append((top, (*shape[:-1], many)))
    graph.add("Cast", [f"{top}.indices"], (*shape[:-1], many), to=TensorProto.DOUBLE)


def multiply(draw: st.DrawFn, graph: RandomGraph) -> None:
    name, shape = draw(st.sampled_from(graph.values))
    columns = draw(st.integers(1, 5))
    seed = draw(st.integers(0, 99))
    matrix = np.random.default_rng(seed).integers(-8, 8, (shape[-1], columns)) / 8
    graph.add("MatMul", [name, graph.constant(matrix)], (*shape[:-1], columns))


GROWING = {
    "unary": unary, "binary": binary, "where": where, "reduce": reduce, "move": move, "order": order,
    "multiply": multiply,
}  # fmt: skip


def natively(steps: Any, content: bytes, rows: Any, columns: int) -> Any:
    planned = steps.Plan(*plan(read_graph(content), {"x": rows.shape[1]}, columns))
    scores = np.zeros((len(rows), columns), np.float32)
    planned.run(len(rows), (rows,), scores)
    return scores


def by_onnx_runtime(content: bytes, rows: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})[0]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(), st.integers(0, 1000))
def test_a_planned_graph_gives_what_onnx_runtime_gives(steps: Any, graph: RandomGraph, seed: int) -> None:
    rows = (np.random.default_rng(seed).integers(-16, 16, (ROWS, graph.width)) / 8).astype(np.float32)
    content = graph.model()
    expected = by_onnx_runtime(content, rows)
    if not (np.abs(expected) < 1 << 40).all():  # beyond that, doubles round
        return
    try:
        scores = natively(steps, content, rows, expected.shape[1])
    except Unsupported as reason:
        assert str(reason) in {"MatMul across rows", "a row takes long"}, "these operators are supported"
        return
    np.testing.assert_array_equal(scores, expected)


@settings(max_examples=60)
@given(st.integers(1, 700), st.integers(1, 200), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 1000))
def test_float32_products_are_those_of_onnx_runtime_bit_for_bit(
    any_steps: Any, inner: int, columns: int, together: int, has_bias: bool, is_transposed: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(columns, inner) if is_transposed else (inner, columns)).astype(np.float32)
    constants = {"w": matrix, **({"b": rng.normal(size=columns).astype(np.float32)} if has_bias else {})}
    node = helper.make_node("Gemm", ["x", *constants], ["y"], transB=int(is_transposed))
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    rows = rng.normal(size=(9, inner)).astype(np.float32)
    expected = by_onnx_runtime(content, rows)[:together]
    assert natively(any_steps, content, rows[:together], columns).tobytes() == expected.tobytes()
