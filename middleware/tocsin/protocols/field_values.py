"""Signals as arrays from protobuf messages: numbers along a path, tensors of a declared form, packed bytes."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
from google.protobuf.descriptor import Descriptor
from numpy.typing import NDArray

from tocsin.protocols.containers import tensor_in
from tocsin.protocols.datatypes import DTYPES, datatype, to_float32
from tocsin.protocols.field_paths import FieldPath, resolve
from tocsin.protocols.paths import SignalPath
from tocsin.unscored import Unscored

Float32 = NDArray[np.float32]


MOST_REPEATED: Final = 8_388_608  # values that one of a few may stand for


class TensorForm(NamedTuple):
    """The fields of a message type that is a tensor: paths, and `values` the field of each datatype. Where it
    `repeats_last`, too few values are filled up with the last one, and none with zeros.
    """

    dtype: str
    shape: str
    bytes: str = ""
    values: Mapping[str, str] = {}
    repeats_last: bool = False


class Array:
    """A signal of one message: its shape, its values as bytes of float32, and the meaning of its first axis, `rows`.
    True: it is one of responses; False: there is one response; None: as the detectors' width says.
    """

    __slots__ = ("raw", "rows", "shape")

    def __init__(self, shape: tuple[int, ...], raw: bytes, rows: bool | None) -> None:
        self.shape, self.raw, self.rows = shape, raw, rows

    @property
    def values(self) -> Float32:
        """The values as an array of that shape."""
        return np.frombuffer(self.raw, np.float32).reshape(self.shape)

    @classmethod
    def of(cls, values: NDArray[Any], rows: bool | None) -> Array:
        """The signal with the values of an array."""
        return cls(values.shape, values.astype(np.float32, copy=False).tobytes(), rows)


_FEW: Final = [struct.Struct(f"{length}f").pack for length in range(65)]  # faster than an array

Find = Callable[[Any], Array | None]  # None where the message does not have it


def finder(root: Descriptor, path: SignalPath, forms: Mapping[str, TensorForm]) -> list[Find]:
    """Functions that find a signal in messages of a type, one for each alternative of its path. Raises ValueError."""
    return [_finder(root, path_text, path, forms) for path_text in path.path.split("|")]


def _finder(root: Descriptor, path: str, signal: SignalPath, forms: Mapping[str, TensorForm]) -> Find:
    """How to find a signal's values in a message, by the kind of field that its path leads to."""
    if signal.container:
        return _contained(root, path, signal)
    if signal.dtype:
        return _packed(root, path, signal)
    resolved = resolve(root, path)
    form = forms.get(resolved.message_type)
    if form is not None and not resolved.repeated:
        tensor, follow = _tensor(resolved.field.message_type, form, path), resolved.follow
        return lambda message: None if (value := follow(message)) is None else tensor(value)
    if not resolved.numeric:
        raise ValueError(f"'{path}' holds no numbers; name a field in it, or say how its bytes are packed")
    return _numbers(resolved, path)


def float32_bytes(values: Sequence[float], length: int) -> bytes:
    """The numbers as bytes of float32. Those beyond its range become infinite."""
    try:
        if length < len(_FEW):
            return _FEW[length](*values)
    except OverflowError:
        pass
    return array("f", values).tobytes()


def _numbers(resolved: FieldPath, path: str) -> Find:
    """How to find numbers in fields, of up to two axes."""
    follow, by_rows = resolved.follow, resolved.by_rows
    if resolved.straight:

        def straight(message: Any) -> Array | None:
            values = follow(message)
            length = len(values)
            return Array((length,), float32_bytes(values, length), by_rows) if length else None

        return straight

    def find(message: Any) -> Array | None:
        value = follow(message)
        if value is None:
            return None
        if isinstance(value, int | float):
            return Array((1,), float32_bytes((value,), 1), by_rows)
        length = len(value)
        if not length:
            return None
        try:
            if not isinstance(value, list) or isinstance(value[0], int | float):
                return Array((length,), float32_bytes(value, length), by_rows)
            if isinstance(value[0], list) or value[0] is None:  # more axes, or something missing
                return Array.of(np.asarray(value, np.float32), by_rows)
            width = len(value[0])
            if length == 1:
                return Array((1, width), float32_bytes(value[0], width), by_rows)
            raw = b"".join([float32_bytes(content, width) for content in value])
        except (TypeError, ValueError, struct.error):  # ragged, or a message lacks what others have
            raw, width = b"", -1
        if len(raw) != 4 * length * width or any(len(content) != width for content in value):
            raise Unscored("shape", f"the values at '{path}' are not of one length")
        return Array((length, width), raw, by_rows)

    return find


def _packed(root: Descriptor, path: str, signal: SignalPath) -> Find:
    """How to find packed numbers in a field of bytes, by the datatype that the path or a field names."""
    resolved = resolve(root, path)
    if resolved.message_type or resolved.numeric or resolved.repeated or resolved.by_rows:
        raise ValueError(f"'{path}' is not one field of bytes")
    follow = resolved.follow
    kind = datatype(signal.dtype)
    kind_at = None if kind else resolve(root, signal.dtype.removeprefix(f"{signal.side}."))
    shape_at = None
    if isinstance(signal.shape, str):
        shape_at = resolve(root, signal.shape.removeprefix(f"{signal.side}."))

    def find(message: Any) -> Array | None:
        content = follow(message)
        if not content:
            return None
        named = kind or _named(kind_at, message, path)
        values = _unpacked(content, named, path)
        if shape_at is not None:
            return Array.of(_shaped(values, _lengths(shape_at.follow(message)), path), None)
        if signal.shape:
            return Array.of(_shaped(values, (-1, *signal.shape), path), True)
        return Array.of(values, False)

    return find


def _contained(root: Descriptor, path: str, signal: SignalPath) -> Find:
    """How to find a tensor in a field of bytes that is a file, such as safetensors."""
    resolved = resolve(root, path)
    if resolved.message_type or resolved.numeric or resolved.repeated or resolved.by_rows:
        raise ValueError(f"'{path}' is not one field of bytes")
    follow, container, tensor = resolved.follow, signal.container, signal.tensor

    def find(message: Any) -> Array | None:
        content = follow(message)
        if not content:
            return None
        if isinstance(content, str):
            raise Unscored("undecodable", f"'{path}' is a text, and {container} are bytes")
        values = tensor_in(container, content, tensor)
        return Array.of(values if values.ndim else values.reshape(1), None)

    return find


def _tensor(owner: Descriptor, form: TensorForm, path: str) -> Find:
    """The values of a tensor message. The fitted width decides what its first axis means."""
    kind_at, shape_at = resolve(owner, form.dtype), resolve(owner, form.shape)
    packed = resolve(owner, form.bytes) if form.bytes else None
    fields = {field: resolve(owner, field) for field in form.values.values()}

    def find(message: Any) -> Array | None:
        named = _named(kind_at, message, path)
        lengths = _lengths(shape_at.follow(message))
        content = packed.follow(message) if packed is not None else None
        held = [name for name, field in fields.items() if len(field.follow(message) or ())]
        if len(held) + bool(content) > 1:
            raise Unscored("undecodable", f"tensor '{path}' has values in several fields")
        if content:
            return Array.of(_shaped(_unpacked(content, named, path), lengths, path), None)
        typed = fields.get(form.values.get(named, ""))
        values = np.asarray(list(typed.follow(message)) if typed else [], np.float64)
        if named in ("FP16", "BF16") and len(values):  # kept as the bits of the number
            values = to_float32(values.astype(np.uint16).tobytes(), named).astype(np.float64)
        if form.repeats_last and min(lengths, default=1) >= 0 and len(values) < (size := prod(lengths)):
            if size > MOST_REPEATED:
                raise Unscored("too_large", f"tensor '{path}' stands for {size:,} values")
            values = np.pad(values, (0, size - len(values)), "edge" if len(values) else "constant")
        return Array.of(_shaped(values.astype(np.float32), lengths, path), None)

    return find


def _named(resolved: FieldPath | None, message: Any, path: str) -> str:
    """The datatype that a message names. Raises Unscored `dtype`."""
    assert resolved is not None
    name = resolved.follow(message)
    if resolved.field.enum_type is not None:
        value = resolved.field.enum_type.values_by_number.get(name)
        name = value.name if value is not None else name
    named = datatype(str(name))
    if named is None:
        raise Unscored("dtype", f"tensor '{path}' is {name}, but a signal must be numeric")
    return named


def _unpacked(content: bytes, named: str, path: str) -> Float32:
    if len(content) % DTYPES[named].itemsize:
        raise Unscored("shape", f"'{path}' holds {len(content)} bytes, which is no whole number of {named}")
    return to_float32(content, named)


def _lengths(value: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in value) if value is not None else ()


def _shaped(values: Float32, lengths: Sequence[int], path: str) -> Float32:
    try:
        return values.reshape(lengths) if lengths else values
    except ValueError:
        raise Unscored("shape", f"'{path}' holds {len(values)} values where its shape says {list(lengths)}") from None
