"""Signals as arrays from JSON: numbers along a path, nested arrays, and numbers packed as base64."""

from __future__ import annotations

import struct
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import Any

import numpy as np

from tocsin.protocols.datatypes import DTYPES, datatype, to_float32
from tocsin.protocols.field_values import Array, Find, Float32, float32_bytes
from tocsin.protocols.http.document import Document
from tocsin.protocols.http.place import Place
from tocsin.protocols.paths import SignalPath
from tocsin.unscored import Unscored


def finders(document: Document, signal: SignalPath) -> tuple[list[Find], list[str]]:
    """Functions that find a signal in documents of one kind, one for each alternative of its path, and the last members
    of the paths. Raises ValueError where a path is invalid.
    """
    finds: list[Find] = []
    names: list[str] = []
    for path in signal.path.split("|"):
        place = document.place(path, "packed" if signal.dtype else "number")
        names += place.names
        if not signal.dtype:
            finds.append(_numbers(place, path))
            continue
        packed, more = _packed(document, place, path, signal)
        names += more
        finds.append(packed)
    return finds, names


def _numbers(place: Place, path: str) -> Find:
    follow, by_rows = place.follow, place.by_rows

    def find(document: Any) -> Array | None:
        value = follow(document)
        return None if value is None else as_array(value, path, by_rows)

    return find


def as_array(value: Any, path: str, by_rows: bool | None) -> Array | None:
    """A number, or numbers in arrays, as a signal; None where there are none. Raises Unscored where the array is
    ragged.
    """
    if isinstance(value, tuple):
        shape, raw = value
        return Array(shape, raw, by_rows)
    if not isinstance(value, list):
        return Array((1,), float32_bytes((value,), 1), by_rows)
    length = len(value)
    if not length or (value[0] is None and value.count(None) == length):
        return None
    try:
        if not isinstance(value[0], list):
            return Array((length,), float32_bytes(value, length), by_rows)
        width = len(value[0])
        if width and not isinstance(value[0][0], list):
            raw = b"".join([float32_bytes(row, width) for row in value if len(row) == width])
            if len(raw) == 4 * length * width:
                return Array((length, width), raw, by_rows)
        values = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError, struct.error):  # ragged, or an object lacks what others have
        raise Unscored("shape", f"the values at '{path}' are not of one length, or some are missing") from None
    return Array.of(values, by_rows) if values.size else None


def _packed(document: Document, place: Place, path: str, signal: SignalPath) -> tuple[Find, Sequence[str]]:
    """Numbers that a document may pack as base64. Unpacked numbers are read as they are."""
    follow, by_rows = place.follow, place.by_rows
    kind = datatype(signal.dtype)
    kind_at = None if kind else document.place(_of_document(signal, signal.dtype), "text")
    shape_at = document.place(_of_document(signal, signal.shape), "lengths") if isinstance(signal.shape, str) else None
    names = [name for at in (kind_at, shape_at) if at is not None for name in at.names]

    def find(decoded: Any) -> Array | None:
        value = follow(decoded)
        if value is None or value == "":
            return None
        packs = isinstance(value, str) or (isinstance(value, list) and bool(value) and isinstance(value[0], str))
        if packs:
            named = kind or named_datatype(kind_at.follow(decoded) if kind_at is not None else "", path)
            value = _unpacked(value, named, path)
        lengths: Any = shape_at.follow(decoded) if shape_at is not None else signal.shape and (-1, *signal.shape)
        if lengths:
            return Array.of(shaped(_flat(value, path), lengths, path), None)
        return Array.of(value, by_rows) if packs else as_array(value, path, by_rows)

    return find, names


def _flat(value: Any, path: str) -> Float32:
    """All values of an array, in their order."""
    if isinstance(value, tuple):
        return np.frombuffer(value[1], np.float32)
    try:
        return np.asarray(value, np.float64).astype(np.float32).ravel()
    except (TypeError, ValueError, OverflowError):
        raise Unscored("shape", f"the values at '{path}' are not of one length, or some are missing") from None


def _of_document(signal: SignalPath, path: str) -> str:
    return path.removeprefix(f"{signal.side}.")


def named_datatype(name: Any, path: str) -> str:
    """The datatype that a document names. Raises Unscored `dtype`."""
    named = datatype(str(name))
    if named is None:
        raise Unscored("dtype", f"'{path}' is {name}, but a signal must be numeric")
    return named


def _unpacked(value: Any, kind: str, path: str) -> Float32:
    """Packed numbers in base64, or lists of such, as an array. Raises Unscored."""
    if isinstance(value, list):
        rows = [_unpacked(row, kind, path) for row in value]
        if len({row.shape for row in rows}) > 1:
            raise Unscored("shape", f"the values at '{path}' are not of one length")
        return np.stack(rows)
    try:
        content = b64decode(value, validate=True)
    except (Base64Error, ValueError, TypeError):
        raise Unscored("undecodable", f"'{path}' is a text, but no base64") from None
    return unpacked(content, kind, path)


def unpacked(content: bytes, kind: str, path: str) -> Float32:
    """The numbers in packed bytes. Raises Unscored `shape` where their length does not fit the datatype."""
    if len(content) % DTYPES[kind].itemsize:
        raise Unscored("shape", f"'{path}' holds {len(content)} bytes, which is no whole number of {kind}")
    return to_float32(content, kind)


def shaped(values: Float32, lengths: Sequence[float], path: str) -> Float32:
    """Values in the shape that a document gives. Raises Unscored `shape`."""
    try:
        return values.reshape([int(length) for length in lengths])
    except (ValueError, OverflowError, TypeError):
        raise Unscored("shape", f"'{path}' holds {len(values)} values where its shape says {list(lengths)}") from None
