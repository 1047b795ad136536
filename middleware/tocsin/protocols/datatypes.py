"""Numeric datatypes by the names that serving protocols give them, and their values as float32."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from tocsin.unscored import Unscored

DTYPES = {
    name: np.dtype(code)
    for name, code in {
        "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
        "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
        "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<u2",
    }.items()
}  # fmt: skip
_SYNONYMS = {
    "FLOAT": "FP32", "FLOAT32": "FP32", "F32": "FP32", "DOUBLE": "FP64", "FLOAT64": "FP64", "F64": "FP64",
    "HALF": "FP16", "FLOAT16": "FP16", "F16": "FP16", "BFLOAT16": "BF16", "LONG": "INT64", "INT": "INT32",
}  # fmt: skip


def datatype(name: str) -> str | None:
    """The datatype with the name that a protocol gives it (`FP32`, `float32`, `DT_FLOAT`), None where it is not
    numeric.
    """
    plain = re.sub(r"^(DT_|TYPE_|DATA_TYPE_|DTYPE_)", "", name.upper())
    plain = _SYNONYMS.get(plain, plain)
    return plain if plain in DTYPES else None


def item_size(kind: str, name: str) -> int:
    """The bytes of one value of a numeric tensor. Raises Unscored `dtype` for BYTES and unknown types."""
    dtype = DTYPES.get(kind)
    if dtype is None:
        raise Unscored("dtype", f"tensor '{name}' is {kind or 'of no type'}, but a signal must be numeric")
    return dtype.itemsize


def to_float32(content: bytes, kind: str) -> NDArray[np.float32]:
    """Raw contents of a numeric datatype as float32, one-dimensional."""
    values = np.frombuffer(content, DTYPES[kind])
    if kind == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
