"""Columns of a recording as arrays: numbers, lists of numbers, and lists of lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import RecordingError
from tocsin_detectors.free_length import FreeLength

if TYPE_CHECKING:
    import pyarrow

SHAPE = b"tocsin.shape"  # in a column's metadata: the shape that one row's flat list has, such as 16,8,4


def declared_shape(field: pyarrow.Field) -> tuple[int, ...] | None:
    """The shape of one row according to the column's metadata, None where it has none."""
    text = (field.metadata or {}).get(SHAPE, b"").decode()
    return tuple(int(size) for size in text.split(",")) if text else None


def to_array(
    column: pyarrow.ChunkedArray | pyarrow.Array, where: str, shape: tuple[int, ...] | None, free: FreeLength | None
) -> NDArray[np.float32]:
    """A column as (rows, ...), float32. Each row's list is reshaped to `shape` where one is declared.

    Lists of different lengths are padded when the signal is `free` along that axis. Raises RecordingError naming
    `where` when the column is not numeric, has missing values, or lists that differ in another axis.
    """
    import pyarrow as pa
    from pyarrow import compute

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if array.null_count:
        raise RecordingError(f"{where} is empty in {array.null_count} rows")
    sizes, ragged = [len(array)], None
    while _is_list(array.type):
        lengths = np.asarray(compute.list_value_length(array))
        longest = int(lengths.max(initial=0))
        if (lengths != longest).any():
            if free is None or free.axis != len(sizes) - 1:
                raise RecordingError(f"{where} has lists of different lengths")
            ragged = (len(sizes), lengths)
        sizes.append(longest)
        array = array.flatten()
        if _is_list(array.type) and array.null_count:
            raise RecordingError(f"{where} holds lists with nothing in their place")
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        raise RecordingError(f"{where} is {array.type}, not numbers")
    values = array.to_numpy(zero_copy_only=False).astype(np.float32)
    if ragged is not None and free is not None:
        level, lengths = ragged
        inner = int(np.prod(sizes[level + 1 :], dtype=int))
        filled = np.full((len(lengths), sizes[level], inner), free.padding, np.float32)
        filled[np.arange(sizes[level]) < lengths[:, None]] = values.reshape(-1, inner)
        values = filled.ravel()
    if shape is not None and len(sizes) == 2 and np.prod(shape) == sizes[1]:
        sizes = [sizes[0], *shape]
    shaped: NDArray[np.float32] = values.reshape(sizes)
    return shaped


def padded_rows(array: NDArray[np.float32], length: int, free: FreeLength) -> NDArray[np.float32]:
    """Rows padded along their free axis."""
    axis = free.axis + 1
    widths = [(0, length - size if at == axis else 0) for at, size in enumerate(array.shape)]
    return np.pad(array, widths, constant_values=free.padding)


def _is_list(kind: pyarrow.DataType) -> bool:
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_fixed_size_list, pa.types.is_large_list)
    return any(is_one(kind) for is_one in lists) or _is_view(kind)


def _is_view(kind: pyarrow.DataType) -> bool:
    """Whether it is a list view, which pyarrow has from version 16 on."""
    import pyarrow as pa

    names = ("is_list_view", "is_large_list_view")
    return any(getattr(pa.types, name)(kind) for name in names if hasattr(pa.types, name))
