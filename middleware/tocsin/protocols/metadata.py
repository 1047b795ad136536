"""Scores in the metadata of calls: one number for each call, as text."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tocsin.protocols.paths import INITIAL, METADATA, TRAILING, SignalPath
from tocsin.protocols.rows import Family, Reading, Shapes
from tocsin.unscored import Unscored

REPEATED = ", "  # what joins the values of a repeated key, as in HTTP
PLACE_NAMES = {METADATA: "the request's metadata", INITIAL: "the initial metadata", TRAILING: "the trailing metadata"}
ROW_KIND = "FP32", (1,)

_LONGEST = 64  # characters of a number
_LARGEST = 3.4028235e38  # that float32 holds
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_FLOAT = struct.Struct("<f")


def number_in(text: str, where: str) -> float:
    """The number in a metadata value. `where` names the key in error messages.

    Raises Unscored: `missing_signal` where the value is empty, `not_finite` where float32 cannot hold it, `dtype` where
    it is not one number.
    """
    stripped = text.strip(" \t")
    if not stripped:
        raise Unscored("missing_signal", f"{where} is empty")
    if len(stripped) <= _LONGEST and _NUMBER.fullmatch(stripped):
        number = float(stripped)
        if -_LARGEST <= number <= _LARGEST:
            return number
        raise Unscored("not_finite", f"{where} is larger than a score can be")
    if _NOT_FINITE.fullmatch(stripped):
        raise Unscored("not_finite", f"{where} is NaN or infinite")
    several = "several values" if REPEATED.strip() in stripped else f"no number ({len(text):,} characters)"
    raise Unscored("dtype", f"{where} holds {several}; a score is one number, such as 0.25")


def joined_values(metadata: Iterable[tuple[str, Any]] | None, keys: Iterable[str]) -> dict[str, str]:
    """These keys of metadata. The values of a repeated key are joined, so that none of them counts alone."""
    wanted = frozenset(keys)
    values: dict[str, str] = {}
    for key, value in metadata or ():
        if key in wanted and isinstance(value, str):
            values[key] = f"{values[key]}{REPEATED}{value}" if key in values else value
    return values


class MetadataSignals:
    """The signals of a model that are in the metadata of calls."""

    def __init__(self, signals: Mapping[str, SignalPath]) -> None:
        self.kinds = tuple((name, *ROW_KIND) for name in signals)
        self._places = [(name, path.side, path.path) for name, path in signals.items()]
        self._families: dict[Family, Family] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def keys(self, side: str) -> list[str]:
        """The keys that are read on one side of the call."""
        return [key for _, where, key in self._places if where == side]

    def read(self, metadata: Mapping[str, Mapping[str, str] | None]) -> list[bytes]:
        """Each signal's raw contents, from the metadata of each side. Raises Unscored."""
        raws = []
        for name, side, key in self._places:
            text = (metadata[side] or {}).get(key)
            if text is None:
                raise Unscored("missing_signal", f"{PLACE_NAMES[side]} has no '{key}' for the signal '{name}'")
            raws.append(_FLOAT.pack(number_in(text, f"'{key}' in {PLACE_NAMES[side]}")))
        return raws

    def add_to(self, reading: Reading, raws: Sequence[bytes], shapes: Shapes) -> Reading:
        """The signals of a message and these together. Raises Unscored `rows` where the message is not one response."""
        rows, family, contents = reading
        if rows != 1:
            raise Unscored("rows", f"the response has {rows:,} rows, and a score in metadata is one of the whole call")
        extended = self._families.get(family)
        if extended is None:
            if len(self._families) >= _MOST_FAMILIES:
                self._families.clear()
            extended = self._families[family] = shapes.family((*family.signals, *self.kinds))
        return 1, extended, [*contents, *raws]


_MOST_FAMILIES = 256


class NoMessageSignals:
    """The reader of a model whose signals are all in metadata: a call is one row."""

    def __init__(self, shapes: Shapes) -> None:
        self._family = shapes.family(())

    def read(self, opened: Sequence[Any], request: bytes | None) -> Reading:
        """One row without signals."""
        del opened, request
        return 1, self._family, []
