"""Named tensors inside a field of bytes: safetensors, and numpy's npz. Nothing is ever unpickled."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tocsin.protocols.datatypes import DTYPES, datatype, to_float32
from tocsin.unscored import Unscored

Float32 = NDArray[np.float32]
CONTAINERS = ("safetensors", "npz")

LARGEST_HEADER = 1 << 20  # bytes of safetensors' header
LARGEST_MEMBER = 32 << 20  # bytes of an array in npz, unpacked
MOST_AXES = 32
_SAFETENSORS = {"BOOL": "BOOL", "U8": "UINT8", "U16": "UINT16", "U32": "UINT32", "U64": "UINT64",
                "I8": "INT8", "I16": "INT16", "I32": "INT32", "I64": "INT64",
                "F16": "FP16", "BF16": "BF16", "F32": "FP32", "F64": "FP64"}  # fmt: skip
_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_ZIP = b"PK\x03\x04"
_NPY = b"\x93NUMPY"


def tensor_in(container: str, content: bytes, name: str) -> Float32:
    """The tensor of that name as float32, in its shape.

    Raises Unscored: `undecodable` where the bytes are not such a container, are ambiguous, or hold a pickle;
    `missing_signal` where the container has no such tensor; `dtype` and `shape` where the tensor is not numeric, or its
    size differs from its shape; `too_large` beyond 32 MiB for an array in npz.
    """
    if content.startswith(_PICKLES):
        raise Unscored(
            "undecodable", "the bytes are a Python pickle, which is never unpickled: send safetensors or npz"
        )
    return _safetensor(content, name) if container == "safetensors" else _array(content, name)


def _safetensor(content: bytes, name: str) -> Float32:
    """One tensor of a safetensors file. Raises Unscored."""
    if len(content) < 8:
        raise Unscored("undecodable", "the bytes are no safetensors: they end before the header")
    (size,) = struct.unpack_from("<Q", content)
    if size > min(LARGEST_HEADER, len(content) - 8):
        raise Unscored("undecodable", f"the bytes are no safetensors: a header of {size:,} bytes")
    try:
        header = json.loads(content[8 : 8 + size].decode("utf-8"), object_pairs_hook=_no_name_twice)
    except (ValueError, RecursionError) as error:
        raise Unscored(
            "undecodable", f"the header of the safetensors cannot be read ({type(error).__name__})"
        ) from None
    if not isinstance(header, dict):
        raise Unscored("undecodable", "the header of the safetensors is no JSON object")
    tensor = header.get(name)
    if tensor is None or name == "__metadata__":
        names = ", ".join(sorted(key for key in header if key != "__metadata__")[:16]) or "none"
        raise Unscored("missing_signal", f"the safetensors have no tensor '{name}' (they have: {names})")
    try:
        kind, shape, (start, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        sizes = (*shape, start, end)
    except (KeyError, TypeError, ValueError):
        raise Unscored(
            "undecodable", f"tensor '{name}' of the safetensors is described otherwise than it should"
        ) from None
    if len(shape) > MOST_AXES or any(type(n) is not int or n < 0 for n in sizes):
        raise Unscored("shape", f"tensor '{name}' has no shape that a tensor can have")
    named = _SAFETENSORS.get(kind) if isinstance(kind, str) else None
    if named is None:
        raise Unscored("dtype", f"tensor '{name}' is of a type that is not numeric, or not known")
    if not start <= end <= len(content) - 8 - size or end - start != prod(shape) * DTYPES[named].itemsize:
        raise Unscored("shape", f"tensor '{name}' holds {end - start:,} bytes, which is not what its shape says")
    return _shaped(to_float32(content[8 + size + start : 8 + size + end], named), shape, "C", name)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError where a name occurs twice, because readers differ in which value they use."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name twice")
    return content


def _array(content: bytes, name: str) -> Float32:
    """One array of an npz file. Raises Unscored."""
    if not content.startswith(_ZIP):
        raise Unscored("undecodable", "the bytes are no npz")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [info for info in archive.infolist() if info.filename in (f"{name}.npy", name)]
            if not members:
                there = ", ".join(sorted(info.filename.removesuffix(".npy") for info in archive.infolist())[:16])
                raise Unscored("missing_signal", f"the npz has no array '{name}' (it has: {there or 'none'})")
            if len(members) > 1:
                raise Unscored("undecodable", f"the npz has two arrays '{name}'")
            if members[0].file_size > LARGEST_MEMBER:
                raise Unscored("too_large", f"array '{name}' unpacks to {members[0].file_size:,} bytes")
            with archive.open(members[0]) as file:
                raw = file.read(LARGEST_MEMBER + 1)
        return _npy(raw, name)
    except (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, struct.error, zlib.error) as error:
        raise Unscored("undecodable", f"the npz cannot be read ({type(error).__name__})") from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile):
        raise Unscored("undecodable", "the npz is damaged") from None


def _npy(raw: bytes, name: str) -> Float32:
    """Parse an array in numpy's own format from its header, without a copy of its values."""
    if len(raw) > LARGEST_MEMBER:
        raise Unscored("too_large", f"array '{name}' unpacks to more than it says")
    if not raw.startswith(_NPY):
        raise Unscored("undecodable", f"'{name}' of the npz is no array")
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise Unscored("undecodable", f"array '{name}' is of numpy's format {version}, which is not known")
    shape, by_columns, dtype = read(file)
    if dtype.hasobject:
        raise Unscored("undecodable", f"array '{name}' holds Python objects, which are never unpickled")
    named = datatype(dtype.newbyteorder("=").name)
    if named is None or dtype.shape:
        raise Unscored("dtype", f"array '{name}' is not numeric")
    held = raw[file.tell() :]
    if len(shape) > MOST_AXES or any(n < 0 for n in shape) or len(held) != prod(shape) * dtype.itemsize:
        raise Unscored("shape", f"array '{name}' holds {len(held):,} bytes, which is not what its shape says")
    values = np.frombuffer(held, dtype).astype(np.float32)
    return _shaped(values, shape, "F" if by_columns else "C", name)


def _shaped(values: Float32, shape: Sequence[int], order: Literal["C", "F"], name: str) -> Float32:
    try:
        return values.reshape(shape, order=order)
    except (ValueError, OverflowError):  # such as one axis of nothing, and another longer than there can be
        raise Unscored("shape", f"tensor '{name}' has no shape that a tensor can have") from None
