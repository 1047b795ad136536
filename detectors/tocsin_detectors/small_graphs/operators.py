"""Operators of ONNX that compute: from a node's values to steps. `views.py` has those that only move values about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tocsin_detectors.small_graphs.arena import Arena, Operation, Places, Value
from tocsin_detectors.small_graphs.graph_file import OnnxNode
from tocsin_detectors.small_graphs.unsupported import Unsupported
from tocsin_detectors.small_graphs.views import axes_of, axis_of, integers

Operator = Callable[[Arena, OnnxNode, Sequence[Value | None]], list[Value]]

# As the enums in _steps.c.
_UNARY = {
    "Neg": 1, "Abs": 2, "Log": 3, "Exp": 4, "Sqrt": 5, "Round": 6, "Floor": 7, "Relu": 8, "Not": 9, "Sigmoid": 10,
    "IsInf": 13, "Reciprocal": 14,
}  # fmt: skip
_TO_INTEGER, _TO_BOOL, _IS_POSITIVE_INF, _IS_NEGATIVE_INF = 11, 12, 15, 16
_BINARY = {
    "Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Pow": 4, "Max": 5, "Min": 6, "Less": 7, "LessOrEqual": 8, "Greater": 9,
    "GreaterOrEqual": 10, "Equal": 11, "And": 12, "Or": 13,
}  # fmt: skip
_REDUCE = {
    "ReduceSum": 0, "ReduceMean": 1, "ReduceMax": 2, "ReduceMin": 3, "ReduceSumSquare": 4, "ReduceL1": 5,
    "ReduceL2": 6, "ReduceLogSumExp": 7,
}  # fmt: skip
_TRUE = frozenset({"Not", "IsInf", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "And", "Or"})
# What float32 gives to the bit when doubles are computed with and rounded.
_SLOW = frozenset({"Exp", "Log", "Pow", "ReduceLogSumExp", "Sigmoid", "Softmax"})
_SLOWER = 16  # times a multiplication
_EXACT = frozenset({"Neg", "Abs", "Sqrt", "Relu", "Add", "Sub", "Mul", "Div", "Max", "Min", "ReduceMax", "ReduceMin"})
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}  # TensorProto.DataType


def unary(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """One value for each: Neg, Log, Exp and others."""
    (x,) = given(values, 1)
    _exact(node, x)
    out = arena.result(x.shape, np.bool_ if node.operator in _TRUE else x.dtype)
    kind = _UNARY[node.operator]
    if node.operator == "IsInf":
        signs = bool(node.attributes.get("detect_positive", 1)), bool(node.attributes.get("detect_negative", 1))
        if not any(signs):
            raise Unsupported("IsInf of no sign")
        kind = kind if all(signs) else _IS_POSITIVE_INF if signs[0] else _IS_NEGATIVE_INF
    arena.step(Operation.UNARY, out, [x.places], [x.places.size], kind=kind, work=_work(node, x.places))
    return [out]


def binary(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """One value for two, broadcast: Add, Less and others. Max and Min take several."""
    operands = [value for value in values if value is not None]
    if len(operands) != len(values) or not operands or (len(operands) != 2 and node.operator not in ("Max", "Min")):
        raise Unsupported(f"{node.operator} of {len(operands)} values")
    if len({value.dtype for value in operands}) > 1:
        raise Unsupported(f"{node.operator} of values of two types")
    out = operands[0]
    if node.operator == "Div" and out.dtype not in _FLOATS:
        raise Unsupported("division of integers")
    for other in operands[1:]:
        _exact(node, out)
        a, b = broadcast(out, other)
        result = arena.result(a.shape, np.bool_ if node.operator in _TRUE else out.dtype)
        arena.step(Operation.BINARY, result, [a, b], [a.size], kind=_BINARY[node.operator], work=_work(node, a))
        out = result
    return [out]


def where(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Where: values of the second where the first is true, of the third elsewhere."""
    del node
    chosen, a, b = given(values, 3)
    if a.dtype != b.dtype:
        raise Unsupported("Where of values of two types")
    places = broadcast(chosen, a, b)
    out = arena.result(places[0].shape, a.dtype)
    arena.step(Operation.WHERE, out, places, [places[0].size])
    return [out]


def cast(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Cast between float32, double, integers and booleans."""
    (x,) = given(values, 1)
    to = np.dtype(_TYPES.get(node.attributes.get("to", 0), np.void))
    if to == np.void:
        raise Unsupported("Cast to another type")
    if to == x.dtype or (to == np.float64 and x.dtype != np.int64) or (x.dtype == np.bool_):
        return [Value(x.places, to, x.is_of_row)]
    if x.dtype == np.int64 and to in (np.float64, np.int32):  # indices, all of them small
        return [Value(x.places, to, x.is_of_row)]
    out = arena.result(x.shape, to)
    kind = 0 if to in _FLOATS else _TO_BOOL if to == np.bool_ else _TO_INTEGER
    arena.step(Operation.UNARY, out, [x.places], [x.places.size], kind=kind, work=_work(node, x.places))
    return [out]


def reduce(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """ReduceSum and others, over constant axes."""
    (x,) = given(values[:1], 1)
    axes = axes_of(node, values, x)
    keeps = bool(node.attributes.get("keepdims", 1))
    if not axes:
        raise Unsupported(f"{node.operator} over no axes, or all")
    _exact(node, x)
    if x.dtype not in _FLOATS and node.operator not in ("ReduceSum", "ReduceMax", "ReduceMin"):
        raise Unsupported(f"{node.operator} of integers")
    return [_reduced(arena, x, axes, _REDUCE[node.operator], x.dtype, keeps, _work(node, x.places))]


def arg_extreme(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """ArgMax and ArgMin: the first place of the largest or the least value."""
    (x,) = given(values, 1)
    if node.attributes.get("select_last_index"):
        raise Unsupported(f"{node.operator} that takes the last index")
    axis = axis_of(node.attributes.get("axis", 0), x)
    kind = 8 if node.operator == "ArgMax" else 9
    return [_reduced(arena, x, (axis,), kind, np.dtype(np.int64), bool(node.attributes.get("keepdims", 1)))]


def softmax(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Softmax along an axis."""
    (x,) = given(values, 1)
    axis = axis_of(node.attributes.get("axis", -1), x)
    _exact(node, x)
    return [_along(arena, Operation.SOFTMAX, x, axis, 0, _work(node, x.places))]


def cumulate(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """CumSum along a constant axis."""
    x, axis = given(values, 2)
    _exact(node, x)
    (number,) = integers(axis)
    kind = int(bool(node.attributes.get("exclusive"))) + 2 * int(bool(node.attributes.get("reverse")))
    return [_along(arena, Operation.CUMULATE, x, axis_of(number, x), kind)]


def top_k(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """TopK along an axis: the values, sorted, and their indices."""
    x, count = given(values, 2)
    (many,) = integers(count)
    axis = axis_of(node.attributes.get("axis", -1), x)
    places = np.moveaxis(x.places, axis, -1)
    *outer, length = places.shape
    if not node.attributes.get("sorted", 1) or not 0 < many <= length:
        raise Unsupported("TopK that does not sort, or of too many")
    rows = places.size // length
    both = arena.result([2, rows, many], x.dtype)
    arena.step(
        Operation.TOP_K, both, [places], [rows, length, many],
        kind=int(bool(node.attributes.get("largest", 1))), work=rows * length * many,
    )  # fmt: skip
    top, indices = (np.moveaxis(half.reshape(*outer, many), -1, axis) for half in both.places)
    return [both.moved(top), Value(indices, np.dtype(np.int64), True)]


def gemm(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Gemm with constant weights, in float32."""
    x, weights = given(values[:2], 2)
    bias = values[2] if len(values) > 2 else None
    scales = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    if scales != (1.0, 1.0) or node.attributes.get("transA") or weights.constant is None or len(x.shape) != 2:
        raise Unsupported("Gemm that scales, or without constant weights")
    matrix = weights.constant.T if node.attributes.get("transB") else weights.constant
    added = None
    if bias is not None:
        if bias.constant is None or bias.constant.size not in (1, matrix.shape[-1]):
            raise Unsupported("Gemm without a constant bias")
        added = np.broadcast_to(bias.constant.ravel(), matrix.shape[-1])
    return [_times_weights(arena, x, matrix, added)]


def matmul(arena: Arena, node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """MatMul: with constant float32 weights as Gemm, otherwise in double."""
    del node
    a, b = given(values, 2)
    if len(a.shape) < 2 or len(b.shape) < 2 or a.dtype != b.dtype:
        raise Unsupported("MatMul of vectors, or of two types")
    if a.dtype == np.float32:
        if b.constant is None or b.constant.ndim != 2:
            raise Unsupported("MatMul in float32 without constant weights")
        return [_times_weights(arena, a, b.constant, None)]
    if a.dtype != np.float64 or (b.is_of_row and len(b.shape) == 2):
        raise Unsupported("MatMul of other types, or across rows")
    rank = max(len(a.shape), len(b.shape))
    if any((value.is_of_row and len(value.shape) < rank) or _spans_rows(value, rank) for value in (a, b)):
        raise Unsupported("MatMul across rows")
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    if inner != b.shape[-2] or not (a.is_of_row or b.is_of_row):
        raise Unsupported("MatMul of matrices that do not fit")
    many = int(np.prod(outer, dtype=np.int64))
    out = arena.result([*outer, rows, columns], a.dtype)
    operands = [np.broadcast_to(a.places, (*outer, rows, inner)), np.broadcast_to(b.places, (*outer, inner, columns))]
    arena.step(Operation.PRODUCT, out, operands, [many, rows, inner, columns], work=many * rows * inner * columns)
    return [out]


def given(values: Sequence[Value | None], count: int) -> list[Value]:
    """The values of a node that must have so many. Raises Unsupported where it has others."""
    present = [value for value in values if value is not None]
    if len(present) != count or len(values) != count:
        raise Unsupported(f"an operator of {len(values)} values, not {count}")
    return present


def broadcast(*values: Value) -> list[Places]:
    """The places of values in their common shape, whose first axis stays that of rows."""
    rank = max(len(value.shape) for value in values)
    for value in values:
        of_row_elsewhere = value.is_of_row and len(value.shape) != rank
        if of_row_elsewhere or (not value.is_of_row and len(value.shape) == rank and value.shape[0] != 1):
            raise Unsupported("values are broadcast across rows")
    if not any(value.is_of_row for value in values):
        raise Unsupported("an operator of constants alone")
    try:
        return list(np.broadcast_arrays(*(value.places for value in values)))
    except ValueError:
        raise Unsupported("shapes cannot be broadcast") from None


def _spans_rows(value: Value, rank: int) -> bool:
    """Whether a constant has an axis of its own where those of rows have theirs, before the two of its matrices."""
    return not value.is_of_row and len(value.shape) == rank > 2 and value.shape[0] != 1


def _work(node: OnnxNode, places: Places) -> int:
    """What a value for each of these places costs, in multiplications."""
    return places.size * (_SLOWER if node.operator in _SLOW else 1)


def _exact(node: OnnxNode, x: Value) -> None:
    """Refuse what float32 computes otherwise than doubles that are rounded."""
    if x.dtype == np.float32 and node.operator not in _EXACT | _TRUE:
        raise Unsupported(f"{node.operator} in float32")
    if not x.is_of_row and len(node.inputs) == 1:
        raise Unsupported("an operator of constants alone")


def _reduced(arena: Arena, x: Value, axes: tuple[int, ...], kind: int, dtype: Any, keeps: bool, work: int = 0) -> Value:
    if not x.is_of_row:
        raise Unsupported("an operator of constants alone")
    others = [axis for axis in range(len(x.shape)) if axis not in axes]
    places = x.places.transpose(*others, *axes).reshape(*(x.shape[axis] for axis in others), -1)
    shape = [1 if axis in axes else length for axis, length in enumerate(x.shape)]
    out = arena.result(shape, dtype)
    sizes = [places.size // places.shape[-1], places.shape[-1]]
    arena.step(Operation.REDUCE, out, [places], sizes, kind=kind, work=work)
    return out if keeps else out.moved(out.places.reshape([x.shape[axis] for axis in others]))


def _along(arena: Arena, operation: Operation, x: Value, axis: int, kind: int, work: int = 0) -> Value:
    """A step that works along one axis, and keeps the shape."""
    places = np.moveaxis(x.places, axis, -1)
    out = arena.result(places.shape, x.dtype)
    arena.step(operation, out, [places], [places.size // places.shape[-1], places.shape[-1]], kind=kind, work=work)
    return out.moved(np.moveaxis(out.places, -1, axis))


def _times_weights(arena: Arena, x: Value, matrix: Any, bias: Any) -> Value:
    """Products of float32 rows with a constant matrix."""
    if x.dtype != np.float32 or matrix.dtype != np.float32 or matrix.ndim != 2 or not x.is_of_row:
        raise Unsupported("products in another type than float32")
    *outer, inner = x.shape
    columns = matrix.shape[1]
    if inner != matrix.shape[0]:
        raise Unsupported("products of matrices that do not fit")
    rows = int(np.prod(outer, dtype=np.int64))
    places = [arena.weights(matrix)]
    if bias is not None:
        places.append(arena.weights(bias))
    out = arena.result([*outer, columns], np.float32)
    sizes = [rows, inner, columns, int(bias is not None)]
    arena.step(Operation.GEMM, out, [x.places], sizes, work=rows * inner * columns, weights=places)
    return out


COMPUTING: dict[str, Operator] = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_REDUCE, reduce),
    "ArgMax": arg_extreme,
    "ArgMin": arg_extreme,
    "Cast": cast,
    "CumSum": cumulate,
    "Gemm": gemm,
    "MatMul": matmul,
    "Softmax": softmax,
    "TopK": top_k,
    "Where": where,
}
