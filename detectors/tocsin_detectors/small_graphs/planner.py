"""From an ONNX graph to steps over one array, for the operators and static shapes that `_steps.c` knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.small_graphs.arena import Arena, Arrays, Value
from tocsin_detectors.small_graphs.graph_file import Graph, OnnxNode
from tocsin_detectors.small_graphs.operators import COMPUTING
from tocsin_detectors.small_graphs.unsupported import Unsupported
from tocsin_detectors.small_graphs.views import MOVING

NODES = 2_000  # of a graph


def plan(graph: Graph, widths: Mapping[str, int], columns: int, masked: Collection[str] = ()) -> Arrays:
    """The arguments of `_steps.Plan` for a graph with inputs (n, width) and the one output (n, columns), all float32.

    `widths` has the inputs in their order, each with a width; in `masked` ones, -inf is a value. Raises Unsupported
    where the graph has to be run by ONNX Runtime.
    """
    fits = {name: graph.widths.get(name) in (0, width) for name, width in widths.items()}
    if len(graph.nodes) > NODES or len(graph.widths) != len(widths) or not all(fits.values()):
        raise Unsupported("the graph has many nodes, or other inputs")
    arena = Arena()
    inputs = {name: arena.result([1, width], np.float32) for name, width in widths.items()}
    values: dict[str, Value] = dict(inputs)
    constants = dict(graph.constants)
    for node in _needed(graph):
        if node.operator == "Constant":
            constants[node.outputs[0]] = _constant(node)
            continue
        is_product = node.operator in ("Gemm", "MatMul")
        operands = [_operand(arena, name, values, constants, is_product) for name in node.inputs]
        for name, value in zip(node.outputs, _planned(arena, node, operands), strict=False):
            values[name] = value
    output = values.get(graph.output)
    if output is None or not output.is_of_row or output.shape != (1, columns) or output.dtype != np.float32:
        raise Unsupported("the graph's output has another shape")
    return arena.arrays([(value, name in masked) for name, value in inputs.items()], output)


def _needed(graph: Graph) -> list[OnnxNode]:
    """The nodes that the output takes something from, in their order."""
    wanted, needed = {graph.output}, []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            needed.append(node)
    return needed[::-1]


def _operand(
    arena: Arena, name: str, values: dict[str, Value], constants: dict[str, NDArray[Any]], is_product: bool
) -> Value | None:
    if not name:
        return None
    if name not in values:
        if name not in constants:
            raise Unsupported(f"value {name} comes from nowhere")
        constant = constants[name]
        if is_product and constant.dtype == np.float32:  # weights have memory of their own
            return Value(np.broadcast_to(np.int32(0), constant.shape), constant.dtype, False, constant)
        values[name] = arena.constant(constant)
    return values[name]


def _planned(arena: Arena, node: OnnxNode, operands: Sequence[Value | None]) -> list[Value]:
    try:
        if node.operator in MOVING:
            return MOVING[node.operator](node, operands)
        if node.operator in COMPUTING:
            return COMPUTING[node.operator](arena, node, operands)
    except Unsupported:
        raise
    except (ArithmeticError, IndexError, ValueError) as error:  # more values than it has, or fewer, or other shapes
        raise Unsupported(f"{node.operator} cannot be planned: {error}") from error
    raise Unsupported(f"operator {node.operator}")


def _constant(node: OnnxNode) -> NDArray[Any]:
    if len(node.attributes) != 1 or len(node.outputs) != 1:
        raise Unsupported("a constant that is given in several ways")
    ((name, value),) = node.attributes.items()
    if name == "value":
        return value  # type: ignore[no-any-return]
    if name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    if name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    raise Unsupported(f"a constant given by {name}")
