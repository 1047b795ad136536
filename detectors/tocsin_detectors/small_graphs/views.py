"""Operators of ONNX that only move values about: the result is other places, and no step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tocsin_detectors.small_graphs.arena import PLACES, Places, Value
from tocsin_detectors.small_graphs.graph_file import OnnxNode
from tocsin_detectors.small_graphs.unsupported import Unsupported

View = Callable[[OnnxNode, Sequence[Value | None]], list[Value]]


def integers(value: Value | None) -> list[int]:
    """The numbers of a constant of integers."""
    if value is None or value.constant is None or value.constant.dtype.kind != "i":
        raise Unsupported("axes, shapes or indices that are not constant")
    return [int(number) for number in value.constant.ravel()]


def axis_of(axis: int, x: Value) -> int:
    """An axis, counted from the first one; the axis of rows is refused."""
    rank = len(x.shape)
    if not -rank <= axis < rank or (axis % rank == 0 and x.is_of_row):
        raise Unsupported("an operator works across rows")
    return axis % rank


def axes_of(node: OnnxNode, values: Sequence[Value | None], x: Value) -> tuple[int, ...]:
    """The axes that a node names, by an input or an attribute, counted from the first one."""
    named = integers(values[1]) if len(values) > 1 and values[1] is not None else list(node.attributes.get("axes", ()))
    axes = tuple(axis_of(axis, x) for axis in named)
    if len(set(axes)) < len(axes):
        raise Unsupported("an axis is named twice")
    return axes


def identity(node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Identity."""
    del node
    return [_first(values)]


def reshape(node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Reshape to a constant shape that keeps rows apart."""
    x, shape = _first(values), integers(values[1] if len(values) > 1 else None)
    if node.attributes.get("allowzero"):
        raise Unsupported("Reshape to an empty shape")
    return [_reshaped(x, [x.shape[at] if not n and at < len(x.shape) else n for at, n in enumerate(shape)], shape)]


def flatten(node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Flatten all but the rows."""
    x = _first(values)
    if node.attributes.get("axis", 1) not in (1, 1 - len(x.shape)):
        raise Unsupported("Flatten of another axis")
    return [x.moved(x.places.reshape(x.shape[0], -1))]


def transpose(node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Transpose all but the rows."""
    x = _first(values)
    order = node.attributes.get("perm", tuple(range(len(x.shape)))[::-1])
    if sorted(order) != list(range(len(x.shape))) or (x.is_of_row and order[0] != 0):
        raise Unsupported("Transpose of the rows")
    return [x.moved(x.places.transpose(order))]


def unsqueeze(node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Unsqueeze behind the rows."""
    x, added = _first(values), integers(values[1] if len(values) > 1 else None)
    rank = len(x.shape) + len(added)
    axes = sorted(axis % rank for axis in added if -rank <= axis < rank)
    if len(set(axes)) < len(added) or (x.is_of_row and 0 in axes):
        raise Unsupported("Unsqueeze before the rows")
    return [x.moved(np.expand_dims(x.places, tuple(axes)))]


def squeeze(node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Squeeze named axes behind the rows."""
    x = _first(values)
    axes = axes_of(node, values, x)
    if not axes or any(x.shape[axis] != 1 for axis in axes):
        raise Unsupported("Squeeze of an axis that is longer than 1")
    return [x.moved(np.squeeze(x.places, axes))]


def slicing(node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Slice by constant bounds, behind the rows."""
    del node
    x = _first(values)
    starts, ends = integers(values[1]), integers(values[2])
    axes = integers(values[3]) if len(values) > 3 and values[3] is not None else list(range(len(starts)))
    steps = integers(values[4]) if len(values) > 4 and values[4] is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise Unsupported("Slice with bounds that do not fit")
    places = x.places
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise Unsupported("Slice backwards")
        places = places[(slice(None),) * axis_of(axis, x) + (slice(start, end, step),)]
    return [x.moved(_some(places))]


def gather(node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Gather by constant indices, behind the rows."""
    x, indices = _first(values), values[1]
    numbers = integers(indices)
    assert indices is not None
    axis = axis_of(node.attributes.get("axis", 0), x)
    if any(not -x.shape[axis] <= number < x.shape[axis] for number in numbers):
        raise Unsupported("Gather outside")
    if x.places.size * max(1, len(numbers)) > PLACES * x.shape[axis]:
        raise Unsupported("Gather of many")
    return [x.moved(_some(np.take(x.places, np.array(numbers, np.int64).reshape(indices.shape), axis)))]


def concat(node: OnnxNode, values: Sequence[Value | None]) -> list[Value]:
    """Concat behind the rows."""
    parts = [value for value in values if value is not None]
    if len(parts) != len(values) or len({part.dtype for part in parts}) != 1:
        raise Unsupported("Concat of values of two types")
    if not all(part.is_of_row or part.shape[:1] == (1,) for part in parts) or not any(p.is_of_row for p in parts):
        raise Unsupported("Concat of constants")
    first = next(part for part in parts if part.is_of_row)
    axis = axis_of(node.attributes.get("axis", 0), first)
    if not all(part.is_of_row for part in parts):
        raise Unsupported("Concat of rows and constants")
    try:
        return [first.moved(np.concatenate([part.places for part in parts], axis))]
    except ValueError:
        raise Unsupported("Concat of shapes that do not fit") from None


def _first(values: Sequence[Value | None]) -> Value:
    if not values or values[0] is None:
        raise Unsupported("an operator without a value")
    return values[0]


def _some(places: Places) -> Places:
    if not places.size:
        raise Unsupported("a value without elements")
    return places


def _reshaped(x: Value, shape: list[int], target: list[int]) -> Value:
    """Places in a shape, with the first axis still that of rows."""
    if x.is_of_row:
        # -1 stands for the rows only where the rest is what a row has; 0 and 1-to-the-rest keep them by themselves.
        of_a_row = x.places.size
        if not shape or target[0] not in (0, -1):
            raise Unsupported("Reshape of the rows")
        if target[0] == -1 and (min(shape[1:], default=1) < 1 or int(np.prod(shape[1:], dtype=np.int64)) != of_a_row):
            raise Unsupported("Reshape of the rows")
        shape = [1, *shape[1:]]
    try:
        return x.moved(x.places.reshape(shape))
    except ValueError:
        raise Unsupported("Reshape to a shape that does not fit") from None


MOVING: dict[str, View] = {
    "Concat": concat,
    "Flatten": flatten,
    "Gather": gather,
    "Identity": identity,
    "Reshape": reshape,
    "Slice": slicing,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
