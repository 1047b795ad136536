"""Signals of messages that are judged together: joined values, choices among tokens, one row for each sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.descriptor import Descriptor
from numpy.typing import NDArray

from tocsin.protocols.field_paths import resolve
from tocsin.protocols.field_values import Array, Find, TensorForm, finder
from tocsin.protocols.likeliest import MessagePart, Read, likeliest
from tocsin.protocols.paths import BEST, SignalPath
from tocsin.unscored import Unscored

Float32 = NDArray[np.float32]


class Alternatives(NamedTuple):
    """Where messages list the likeliest tokens of each position: their ids and log-probabilities, (T, K) each."""

    tokens: SignalPath
    logprobs: SignalPath


def signal_of(
    root: Descriptor, path: SignalPath, forms: Mapping[str, TensorForm], alternatives: Alternatives | None
) -> Read:
    """A function that reads a signal from messages of a type. Raises ValueError with the reason where that is
    impossible.
    """
    if path.choices:
        if alternatives is None:
            raise ValueError("choices: nothing says where the likeliest tokens of each place stand")
        tokens, logprobs = (_places(root, place, alternatives.logprobs, forms) for place in alternatives)
        return _among(tokens, logprobs, [np.array(ids, np.float32) for ids in path.choices], path.at)
    if path.said:
        return likeliest(root, path, path)
    return _of_ways(finder(root, path, forms), path)


def document_signal(
    ways_of: Callable[[SignalPath], list[Find]], path: SignalPath, alternatives: Alternatives | None
) -> Read:
    """A function that reads a signal from documents, in which `ways_of` finds values. Raises ValueError with the reason
    where that is impossible.
    """
    if path.said or path.container:
        raise ValueError("tensors in a field of bytes, and likeliest tokens told by rank, are read of gRPC messages")
    if not path.choices:
        return _of_ways(ways_of(path), path)
    if alternatives is None:
        raise ValueError("choices: nothing says where the likeliest tokens of each place stand")
    tokens, logprobs = (_together(ways_of(place)) for place in alternatives)
    return _among(tokens, logprobs, [np.array(ids, np.float32) for ids in path.choices], path.at)


def _of_ways(ways: Sequence[Find], path: SignalPath) -> Read:
    """A function that reads the value at a path, by the first alternative that finds one."""
    if path.sequences:
        return _by_sequence(ways, path.sequences)

    def read(parts: Sequence[MessagePart], width: int) -> Array | None:
        if len(parts) > 1:
            return _joined(ways, [part.message for part in parts], width)
        message = parts[0].message  # the usual case
        for way in ways:
            if (values := way(message)) is not None:
                return values
        return None

    return read


def plain(root: Descriptor, path: SignalPath) -> bool:
    """Whether a signal is plain numbers, whose shape follows from the message's structure."""
    return not path.is_derived and all(resolve(root, way).numeric for way in path.path.split("|"))


def _places(root: Descriptor, path: SignalPath, logprobs: SignalPath, forms: Mapping[str, TensorForm]) -> Read:
    """A function that reads the likeliest tokens, (T, K), of messages that are judged together."""
    if path.said:
        return likeliest(root, path, logprobs)
    return _together(finder(root, path, forms))


def _together(ways: Sequence[Find]) -> Read:
    """Join the values of messages."""
    return lambda parts, width: _joined(ways, [part.message for part in parts], width)


def _joined(ways: Sequence[Find], messages: Sequence[Any], width: int) -> Array | None:
    """The first alternative by which some message has values, joined over all messages: as rows where each has the
    fitted width, otherwise end to end.
    """
    for way in ways:
        arrays = [array for message in messages if (array := way(message)) is not None]
        if len(arrays) == 1:
            return arrays[0]
        if arrays:
            first = arrays[0]
            if any(array.shape[1:] != first.shape[1:] for array in arrays):
                raise Unscored("shape", "messages that are judged together have values of different shapes")
            raw = b"".join([array.raw for array in arrays])
            if first.rows is False and prod(first.shape) == width and all(a.shape == first.shape for a in arrays):
                return Array((len(arrays), *first.shape), raw, True)
            return Array((sum(array.shape[0] for array in arrays), *first.shape[1:]), raw, first.rows)
    return None


def _among(tokens: Read, logprobs: Read, choices: Sequence[Float32], at: int | str) -> Read:
    """The probabilities (C,) of the choices at one position of an answer, relative to the mass of all choices there.
    The tokens that stand for a choice are configured.
    """

    def read(parts: Sequence[MessagePart], width: int) -> Array | None:
        del width
        ids, logs = tokens(parts, 0), logprobs(parts, 0)
        if ids is None or logs is None:
            return None
        if ids.shape != logs.shape or len(ids.shape) != 2:
            raise Unscored("shape", "the likeliest tokens and their log-probabilities are not of one shape")
        probs = np.exp(logs.values)
        mass = np.stack([np.where(np.isin(ids.values, choice), probs, 0).sum(axis=1) for choice in choices], axis=1)
        total = mass.sum(axis=1)
        place = int(total.argmax()) if at == BEST else int(at)
        if not -len(total) <= place < len(total):
            raise Unscored("missing_signal", f"the answer has {len(total)} tokens, and choices stand at {place}")
        if not total[place]:
            raise Unscored("missing_signal", f"none of the choices is among the {ids.shape[1]} likeliest tokens")
        return Array.of(mass[place] / total[place], False)

    return read


def _by_sequence(ways: Sequence[Find], kind: str) -> Read:
    """One row for each sequence: its values padded with -1 (S, T), or their sum (S,)."""

    def read(parts: Sequence[MessagePart], width: int) -> Array | None:
        del width
        by_sequence: dict[int, list[Any]] = {}
        for part in parts:
            by_sequence.setdefault(part.sequence, []).append(part.message)
        rows = []
        for sequence in sorted(by_sequence):
            joined = _joined(ways, by_sequence[sequence], 0)
            if joined is None:
                return None
            rows.append(joined.values.ravel())
        if kind == "sum":
            return Array.of(np.array([row.sum() for row in rows]), False)
        stacked = np.full((len(rows), max(len(row) for row in rows)), -1, np.float32)
        for at, row in enumerate(rows):
            stacked[at, : len(row)] = row
        return Array.of(stacked, False)

    return read
