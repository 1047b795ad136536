"""Signals in one Parquet file: which there are, their shapes, and their values batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import RecordingError
from tocsin.recording.columns import declared_shape, to_array
from tocsin_detectors.free_length import FreeLength
from tocsin_detectors.observation import BATCH

if TYPE_CHECKING:
    import pyarrow

Mask = NDArray[np.bool_]
Shape = tuple[int, ...]
SIGNAL_PREFIX = "signal."  # begins the name of a signal's column


def rows_of(path: Path, model: str | None) -> tuple[set[str], Mask]:
    """The models in a file, and which of its rows are the model's."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import compute

    try:
        with pq.ParquetFile(path) as file:
            if "model" not in file.schema_arrow.names:
                return set(), np.ones(file.metadata.num_rows, bool)
            column = file.read(["model"]).column("model")
    except (OSError, pa.ArrowException) as error:
        raise RecordingError(f"{path}: is no Parquet file ({error})") from error
    models = set(column.unique().to_pylist())
    if model is None:
        return models, np.ones(len(column), bool)
    return models, np.asarray(compute.fill_null(compute.equal(column, model), False))


def signal_names(path: Path, signals: list[str], optional: list[str], prefix: str) -> list[str]:
    """The names of these signals, or of all that there are, and of the `optional` ones that are there. Raises
    RecordingError where one is missing.
    """
    import pyarrow.parquet as pq

    kind = prefix.removesuffix(".")
    there = [n.removeprefix(prefix) for n in pq.read_schema(path).names if n.startswith(prefix)]
    for signal in signals or there or ["?"]:
        if signal not in there:
            names = ", ".join(there) or f"none; {kind}s are columns named {prefix}NAME"
            other = "; tocsin convert reads tables whose columns have other names" if prefix == SIGNAL_PREFIX else ""
            raise RecordingError(f"{path}: has no {kind} '{signal}' (it has: {names}){other}")
    return list(dict.fromkeys([*(signals or there), *(name for name in optional if name in there)]))


def signal_shapes(path: Path, names: list[str], free: Mapping[str, FreeLength], prefix: str) -> dict[str, Shape]:
    """Each signal's shape in a file: as in its first rows, and as long as the longest along a free axis."""
    shapes: dict[str, Shape] = {}
    for _, table in tables(path, [prefix + name for name in names], None):
        for name in names:
            shape = signal_column(path, prefix + name, table, free.get(name)).shape[1:] or (1,)
            before = shapes.get(name, shape)
            shapes[name] = joint_shape(path, path, name, before, shape, free.get(name))
        if not free:
            break
    return shapes


def joint_shape(path: Path, first: Path, name: str, before: Shape, shape: Shape, free: FreeLength | None) -> Shape:
    """The shape that holds both. Raises RecordingError when they differ in an axis that is not free."""
    if free is not None and len(shape) == len(before) > free.axis:
        longest = max(shape[free.axis], before[free.axis])
        joint = tuple(longest if axis == free.axis else size for axis, size in enumerate(before))
        if joint == tuple(longest if axis == free.axis else size for axis, size in enumerate(shape)):
            return joint
    elif np.prod(shape) == np.prod(before):
        return max(before, shape, key=len)
    raise RecordingError(f"{path}: signal '{name}' has the shape {list(shape)}, but {list(before)} in {first.name}")


def tables(
    path: Path, columns: Sequence[str], shuffle: np.random.Generator | None
) -> Iterator[tuple[int, pyarrow.Table]]:
    """A file's columns in batches, each with the number of its first row; row groups in any order when shuffled."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        order: Any = range(len(sizes)) if shuffle is None else shuffle.permutation(len(sizes))
        for group in order:
            start = int(starts[group])
            for batch in file.iter_batches(BATCH, [int(group)], list(columns)):
                yield start, pa.Table.from_batches([batch])
                start += len(batch)


def signal_column(path: Path, column: str, table: pyarrow.Table, free: FreeLength | None) -> NDArray[np.float32]:
    """The values (n, ...) of a signal's column in a batch. Raises RecordingError."""
    kind, _, name = column.partition(".")
    if column not in table.column_names:
        raise RecordingError(
            f"{path}: has no {kind} '{name}', which other files of the recording have; a bundle reads the same signals "
            f"of every response: give methods that answer with others a protocol and a model each, and record again"
        )
    where = f"{path}: {kind} '{name}'"
    return to_array(table.column(column), where, declared_shape(table.schema.field(column)), free)


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
