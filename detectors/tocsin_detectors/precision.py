"""Scores that are the same in any batch: detectors compute in double precision and give float32.

In float32, the kernels of ONNX Runtime give the same row another last place by where it stands in a batch and how its
memory is aligned: vectorised loops end in scalar ones, and sums are taken in another order. Where one answer repeats,
and is the threshold, that decides over alarms. In double precision the difference is some 1e-16 of a score, which
rounding to float32 removes. Products with fitted weights, which cost most, stay in float32: each row's is computed
alone. So does the Relu between two of them, which is the same in either precision. Scores that are small differences of
large numbers, such as the entropy of a distribution that is all but sure, are rounded to a detector's `resolution` as
well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

_FLOAT, _DOUBLE = 1, 11  # onnx.TensorProto
_EXACT = frozenset({"Relu"})  # the same in either precision, and quicker where a product gives and takes float32
_AS_FITTED = frozenset({"Gemm", "Conv", "TreeEnsembleRegressor", "TreeEnsemble"})  # float32 by cost, or by need


def in_double_precision(model: onnx.ModelProto, resolution: float = 0) -> onnx.ModelProto:
    """The same model, float32 in and out, that computes in double precision between.

    Its outputs are multiples of `resolution`, where that is not 0.
    """
    import onnx

    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    graph = widened.graph
    del graph.value_info[:]
    inputs = {i.name for i in graph.input if i.type.tensor_type.elem_type == _FLOAT}
    outputs = {o.name for o in graph.output if o.type.tensor_type.elem_type == _FLOAT}
    _Widening(graph).run({name: f"{name}.double" for name in (*inputs, *outputs)})
    before = [_cast(name, f"{name}.double", _DOUBLE) for name in sorted(inputs)]
    after = [node for name in sorted(outputs) for node in _narrowed(f"{name}.double", name, resolution)]
    nodes = _needed([*before, *graph.node, *after], {output.name for output in graph.output})
    del graph.node[:]
    graph.node.extend(nodes)
    return widened


class _Widening:
    """Makes every float32 value of a graph, and of the graphs inside it, a double one."""

    def __init__(self, graph: onnx.GraphProto, weights: dict[str, onnx.TensorProto] | None = None) -> None:
        self._graph = graph
        self._weights = dict(weights or {})  # constants by name, as they were
        self._narrow: dict[str, str] = {}  # values that were computed in float32, by the name of their double

    def run(self, names: dict[str, str]) -> None:
        """Widen, with values called as `names` say."""
        graph = self._graph
        for tensor in graph.initializer:
            self._weights[tensor.name] = _copy(tensor)
            _widen(tensor)
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._weights[node.output[0]] = _copy(node.attribute[0].t)
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
            if self._stays(node):
                nodes += self._in_float(node)
                continue
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.t.ByteSize():
                    _widen(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                    attribute.i = _DOUBLE
                if attribute.g.ByteSize():
                    _Widening(attribute.g, self._weights).run(names)
            nodes.append(node)
        copies = [_copy(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        for output in graph.output:
            if output.name not in names and output.type.tensor_type.elem_type == _FLOAT:  # of a graph inside
                output.type.tensor_type.elem_type = _DOUBLE

    def _stays(self, node: onnx.NodeProto) -> bool:
        if node.op_type in _EXACT and node.input[0] in self._narrow:
            return True
        weights = self._weights.get(node.input[1]) if node.op_type == "MatMul" else None
        return node.op_type in _AS_FITTED or (weights is not None and weights.data_type == _FLOAT)

    def _in_float(self, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
        """A node that computes in float32, between casts; its weights are as they were fitted."""
        for place, name in enumerate(node.input):
            if not name:
                continue
            narrow = self._narrow.get(name) or f"{node.output[0]}.float{place}"
            node.input[place] = narrow
            if name in self._narrow:
                continue
            if name in self._weights:
                yield _constant(narrow, self._weights[name])
            else:
                yield _cast(name, narrow, _FLOAT)
        wide = list(node.output)
        node.output[:] = [f"{name}.float" for name in wide]
        yield node
        for name in wide:
            self._narrow[name] = f"{name}.float"
            yield _cast(f"{name}.float", name, _DOUBLE)


def _needed(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes without casts whose values nobody takes."""
    used, needed = set(outputs), list[Any]()
    for node in reversed(list(nodes)):
        if node.op_type == "Cast" and not used.intersection(node.output):
            continue
        used.update(_inputs(node))
        needed.append(node)
    return needed[::-1]


def _inputs(node: onnx.NodeProto) -> Iterable[str]:
    """The values that a node takes, those that graphs inside it take counted."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _inputs(inner)
        yield from (output.name for output in attribute.g.output)


def _narrowed(name: str, to: str, resolution: float) -> Iterable[onnx.NodeProto]:
    """A double value as float32."""
    from onnx import helper, numpy_helper

    if resolution:
        unit = f"{to}.resolution"
        yield _constant(unit, numpy_helper.from_array(np.array(resolution), unit))
        yield helper.make_node("Div", [name, unit], [f"{to}.units"])
        yield helper.make_node("Round", [f"{to}.units"], [f"{to}.whole"])
        yield helper.make_node("Mul", [f"{to}.whole", unit], [f"{to}.rounded"])
        name = f"{to}.rounded"
    yield _cast(name, to, _FLOAT)


def _cast(name: str, to: str, kind: int) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [name], [to], to=kind)


def _constant(name: str, tensor: onnx.TensorProto) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Constant", [], [name], value=tensor)


def _copy(proto: Any) -> Any:
    copied = type(proto)()
    copied.CopyFrom(proto)
    return copied


def _widen(tensor: onnx.TensorProto) -> None:
    from onnx import numpy_helper

    if tensor.data_type == _FLOAT:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
